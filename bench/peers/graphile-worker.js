// graphile-worker 0.18.0 (npm), a queue without workflows; needs Node 22.18.
//
// plain: 24 concurrent jobs over 25 connections, each job claimed and deleted
//        on its own: what one gets without reading about performance.
// batch: the same with localQueue.size 500, completeJobBatchDelay 0 and
//        failJobBatchDelay 0, its authors' own published benchmark setting. A
//        crash repeats up to 500 jobs.
//
// Jobs are enqueued in bulk by addJobs, 1,000 a call, and one by one by addJob.
// A finished job is a deleted row.

import {
	confirmed, connect, connectionSettings, idleLatency, missingModule, now, openLoopLatency, tally,
	warmPool, within,
} from './measuring.js';

const bulkSize = 1000;
const workerSettings = { concurrentJobs: 24, maxPoolSize: 25 };
const variants = {
	plain: {},
	batch: { localQueue: { size: 500 }, completeJobBatchDelay: 0, failJobBatchDelay: 0 },
};

// Opens one variant in an empty database.
async function open(url, variant) {
	const { Logger, WorkerPreset, makeWorkerUtils, run, runMigrations } = await import('graphile-worker');
	const settings = connectionSettings(url);
	const logger = new Logger(() => () => {});
	const client = await connect(settings);
	const workerPool = await warmPool(settings, workerSettings.maxPoolSize);
	const enqueuePool = await warmPool(settings, 8);
	await runMigrations({ pgPool: enqueuePool, logger });
	const utils = await makeWorkerUtils({ pgPool: enqueuePool, logger });
	let onStart = () => {};
	const taskList = { noop: async (payload) => { onStart(payload.i); } };
	const listen = (callback) => { onStart = callback; };

	const startWorker = () => run({
		pgPool: workerPool,
		taskList,
		noHandleSignals: true,
		parsedCronItems: [],
		logger,
		preset: { extends: [WorkerPreset], worker: { ...workerSettings, ...variants[variant] } },
	});

	const send = (i) => utils.addJob('noop', { i });

	// Enqueues that many jobs in bulk and gives the seconds it took.
	async function enqueue(jobs) {
		const begun = now();
		for (let from = 0; from < jobs; from += bulkSize) {
			const size = Math.min(bulkSize, jobs - from);
			await utils.addJobs(Array.from({ length: size }, (_, i) => ({ identifier: 'noop', payload: { i: from + i } })));
		}
		const seconds = (now() - begun) / 1000;
		// What autovacuum would do within the next minute: without it the first
		// plans know nothing of the rows that were just loaded.
		await client.query('VACUUM (ANALYZE) graphile_worker._private_jobs');
		return seconds;
	}

	// Runs a worker until that many handlers ran and, if asked, no job is left.
	async function drainJobs(jobs, untilEmpty) {
		const done = tally(jobs);
		listen(() => done.ran());
		const begun = now();
		const runner = await startWorker();
		await within(done.reached, 600_000, 'the drain');
		if (untilEmpty)
			await confirmed(client, 'SELECT count(*) = 0 FROM graphile_worker._private_jobs');
		const seconds = (now() - begun) / 1000;
		await runner.stop();
		return seconds;
	}

	return {
		async drain({ jobs }) {
			const enqueueSeconds = await enqueue(jobs);
			const seconds = await drainJobs(jobs, true);
			return { units: jobs, seconds, enqueueSeconds };
		},
		async latency(options) {
			const runner = await startWorker();
			const result = await idleLatency(options, send, listen);
			await runner.stop();
			return result;
		},
		async openLoop(options) {
			const runner = await startWorker();
			const result = await openLoopLatency(options, send, listen);
			await runner.stop();
			return result;
		},
		// The last handlers of a partial drain may wait for their batch's deletion:
		// at most 500 of them, and the count afterwards shows that none was lost.
		async backlog({ waiting, drain }) {
			await enqueue(drain);
			const emptySeconds = await drainJobs(drain, true);
			await enqueue(waiting);
			const seconds = await drainJobs(drain, false);
			await confirmed(client, 'SELECT count(*) <= $1 FROM graphile_worker._private_jobs', [waiting - drain]);
			return { units: drain, seconds, emptyUnits: drain, emptySeconds };
		},
		async close() {
			await utils.release();
			await client.end();
			await Promise.all([workerPool.end(), enqueuePool.end()]);
		},
	};
}

export default Object.keys(variants).map((variant) => ({
	name: 'graphile-worker',
	variant,
	kind: 'queue',
	available: () => missingModule('graphile-worker'),
	open: (url) => open(url, variant),
}));
