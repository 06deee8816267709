// pg-boss 12.38.0 (npm), a queue whose "flows" are workflows of jobs that any
// worker may take; needs Node 22.12.
//
// batch: 2 loops that fetch 200 jobs each (burstWhenBatchFull: the next fetch
//        follows at once while fetches come back full), a queue with notify and
//        useListenNotify, so that idle workers are woken, and a pool of 10.
//        flowIntervalSeconds is 1, the least it allows (default 5): dependants
//        are released by a background pass at that interval, which is why a
//        workflow on an idle system takes a second a level. That pass notifies
//        nobody, so notifyPollingIntervalSeconds is 0.5, the least (default 30).
//
// Jobs are enqueued in bulk by insert, 1,000 a call, one by one by send, and
// workflows by flow, one call each. A finished job is a row in state completed.

import {
	confirmed, connect, connectionSettings, fan, idleLatency, idleWorkflows, missingModule, now,
	openLoopLatency, stepsOf, tally, within,
} from './measuring.js';

const queue = 'noop';
const bulkSize = 1000;
const flowsAtOnce = 8;
const workSettings = {
	localConcurrency: 2,
	batchSize: 200,
	burstWhenBatchFull: true,
	pollingIntervalSeconds: 0.5,
	notifyPollingIntervalSeconds: 0.5,
};

// No job of the queue is waiting or running any more.
const allCompleted = `SELECT NOT EXISTS (SELECT FROM pgboss.job WHERE name = '${queue}' AND state < 'completed')`;

// Opens the peer in an empty database.
async function open(url) {
	const { PgBoss } = await import('pg-boss');
	const settings = connectionSettings(url);
	const client = await connect(settings);
	const failures = [];
	const boss = new PgBoss({ ...settings, max: 10, useListenNotify: true, flowIntervalSeconds: 1 });
	boss.on('error', (error) => failures.push(error));
	await boss.start();
	await boss.createQueue(queue, { notify: true });
	// The enqueuer of the latency workloads is another instance with a pool of its
	// own, as an application would be; it leaves maintenance and flows to the other.
	// Under overload a call waits for a connection as long as it takes: an open
	// loop shows that as latency.
	const producer = new PgBoss({
		...settings, max: 8, connectionTimeoutMillis: 600_000,
		supervise: false, schedule: false, migrate: false, flowIntervalSeconds: 3600,
	});
	producer.on('error', (error) => failures.push(error));
	await producer.start();
	let onStart = () => {};
	const listen = (callback) => { onStart = callback; };
	const send = (i) => producer.send(queue, { i });

	// Starts the worker; a handler that is given a batch starts all its jobs.
	const startWorker = () => boss.work(queue, workSettings, async (jobs) => {
		for (const job of jobs)
			onStart(job.data.i);
	});
	const stopWorker = () => boss.offWork(queue, { wait: true });

	// Stops at the first error that pg-boss only reports as an event.
	function raiseFailures() {
		if (failures.length)
			throw failures[0];
	}

	// Enqueues that many jobs in bulk and gives the seconds it took.
	async function enqueue(jobs) {
		const begun = now();
		for (let from = 0; from < jobs; from += bulkSize) {
			const size = Math.min(bulkSize, jobs - from);
			await producer.insert(queue, Array.from({ length: size }, (_, i) => ({ data: { i: from + i } })));
		}
		const seconds = (now() - begun) / 1000;
		await settleStatistics();
		return seconds;
	}

	// What autovacuum would do within the next minute: without it the first plans
	// know nothing of the rows that were just loaded.
	const settleStatistics = () => client.query('VACUUM (ANALYZE) pgboss.job_common, pgboss.job_dependency');

	// Creates workflows of these steps, a few calls at a time.
	async function createFlows(steps, flows) {
		const jobs = steps.map((step) => ({ ref: step.name, name: queue, data: { i: 0 }, dependsOn: step.after }));
		let next = 0;
		await Promise.all(Array.from({ length: flowsAtOnce }, async () => {
			while (next++ < flows)
				await producer.flow(jobs);
		}));
	}

	// Creates all of a workload's workflows beforehand.
	async function prepareFlows(steps, flows) {
		await createFlows(steps, flows);
		await settleStatistics();
	}

	// Runs a worker until that many handlers ran and, if asked, no job is left.
	async function drainJobs(jobs, untilEmpty) {
		const done = tally(jobs);
		listen(() => done.ran());
		const begun = now();
		await startWorker();
		await within(done.reached, 600_000, 'the drain');
		if (untilEmpty)
			await confirmed(client, allCompleted);
		const seconds = (now() - begun) / 1000;
		await stopWorker();
		raiseFailures();
		return seconds;
	}

	return {
		async drain({ jobs }) {
			const enqueueSeconds = await enqueue(jobs);
			const seconds = await drainJobs(jobs, true);
			return { units: jobs, seconds, enqueueSeconds };
		},
		async latency(options) {
			await startWorker();
			const result = await idleLatency(options, send, listen);
			await stopWorker();
			return result;
		},
		async openLoop(options) {
			await startWorker();
			const result = await openLoopLatency(options, send, listen);
			await stopWorker();
			return result;
		},
		async shapes({ shape, tasks }) {
			const steps = stepsOf(shape);
			await prepareFlows(steps, tasks);
			const units = steps.length * tasks;
			const seconds = await drainJobs(units, true);
			return { units, tasks, seconds };
		},
		async diamondIdle(options) {
			const steps = stepsOf('smallDiamond');
			await startWorker();
			let done;
			listen(() => done.ran());
			const create = () => {
				done = tally(steps.length);
				return createFlows(steps, 1);
			};
			const finished = async () => {
				await within(done.reached, 60_000, 'a workflow');
				await confirmed(client, allCompleted);
			};
			const result = await idleWorkflows(options, create, finished);
			await stopWorker();
			return result;
		},
		async fanout({ width }) {
			await prepareFlows(fan(width), 1);
			const seconds = await drainJobs(width + 2, true);
			return { units: width + 2, seconds };
		},
		// The last batches of a partial drain may wait for their completion: at most
		// 400 jobs; the count afterwards shows that none was lost.
		async backlog({ waiting, drain }) {
			await enqueue(drain);
			const emptySeconds = await drainJobs(drain, true);
			await enqueue(waiting);
			const seconds = await drainJobs(drain, false);
			await confirmed(client, `SELECT count(*) >= $1 FROM pgboss.job WHERE name = '${queue}' AND state = 'completed'`,
				[2 * drain], { everyMs: 50 });
			return { units: drain, seconds, emptyUnits: drain, emptySeconds };
		},
		async close() {
			await producer.stop({ graceful: false, close: true });
			await boss.stop({ graceful: false, close: true });
			await client.end();
		},
	};
}

export default [{
	name: 'pg-boss',
	variant: 'batch',
	kind: 'dag',
	available: () => missingModule('pg-boss'),
	open,
}];
