// DBOS, @dbos-inc/dbos-sdk 5.3.0 (npm): checkpoints. A workflow is a function
// that runs in one process, a step is a row that it writes; after a crash the
// function runs again and skips the rows it finds. That is a weaker notion than
// a workflow whose every step any worker may take: read its figures with care.
//
// queued: workflows go through a queue with workerConcurrency 100 and
//         minPollingIntervalMs 10 (default 1,000), a pool of 20. The default
//         queue, without limits, is several times slower: one poll takes all
//         there is.
//
// Workflows are enqueued in bulk by enqueueInTransaction, 1,000 a transaction,
// one by one by enqueue. A graph of steps runs level by level, a level under
// Promise.all, which starts its steps in the same order each time, as DBOS
// demands. A fan-out starts a queued child workflow for each step of the middle,
// its only way to other workers. A finished workflow is a row in status SUCCESS.
//
// DBOS is one per process: an instance has to be closed before the next opens.

import {
	confirmed, connect, connectionSettings, conventionalUrl, idleLatency, idleWorkflows, missingModule, now,
	openLoopLatency, stepsOf, tally, warmPool, within,
} from './measuring.js';

const appName = 'bench';
const appVersion = '1';
const queue = 'work';
const childQueue = 'children';
const bulkSize = 1000;
const queueSettings = { workerConcurrency: 100, minPollingIntervalMs: 10 };
// DBOS reports errors of its background work only to its log.
const failures = [];
const logger = { debug() {}, info() {}, warn() {}, error: (complaint) => failures.push(complaint) };

const allSucceeded = "SELECT NOT EXISTS (SELECT FROM dbos.workflow_status WHERE status <> 'SUCCESS')";

// What the handlers report to; one for the process, as the workflows are.
let onStart = () => {};
const listen = (callback) => { onStart = callback; };
const startSignal = (i) => onStart(i);

// The steps of a shape, grouped so that each level depends on earlier ones only.
function levelsOf(steps) {
	const depths = new Map();
	const levels = [];
	for (const { name, after } of steps) {
		const depth = Math.max(0, ...after.map((other) => depths.get(other) + 1));
		depths.set(name, depth);
		(levels[depth] ??= []).push(name);
	}
	return levels;
}

// Registers the workflows, once a process.
let registered;
async function register() {
	if (registered)
		return registered;
	const { DBOS } = await import('@dbos-inc/dbos-sdk');
	const noStep = async () => {};
	const runStep = (name) => DBOS.runStep(noStep, { name });
	DBOS.registerWorkflow(async (i) => { startSignal(i); }, { name: 'noop' });
	const child = DBOS.registerWorkflow(async () => {}, { name: 'child' });
	DBOS.registerWorkflow(async (shape) => {
		for (const level of levelsOf(stepsOf(shape)))
			await Promise.all(level.map(runStep));
		startSignal(shape);
	}, { name: 'graph' });
	DBOS.registerWorkflow(async (width) => {
		await runStep('first');
		const handles = [];
		for (let i = 0; i < width; i++)
			handles.push(await DBOS.startWorkflow(child, { queueName: childQueue })());
		// One after the other: awaited together, all results queue for a lock on
		// this workflow's row, each holding a connection, and it takes longer.
		for (const handle of handles)
			await handle.getResult();
		await runStep('last');
		startSignal(width);
	}, { name: 'fan' });
	registered = DBOS;
	return DBOS;
}

// Opens the peer in an empty database.
async function open(url) {
	const DBOS = await register();
	const { DBOSClient } = await import('@dbos-inc/dbos-sdk');
	const settings = connectionSettings(url);
	const systemDatabaseUrl = conventionalUrl(settings);
	const config = {
		name: appName, applicationVersion: appVersion, systemDatabaseUrl, systemDatabasePoolSize: 20, logger,
	};
	const database = await connect(settings);
	const enqueuePool = await warmPool(settings, 8);
	let launched = false;
	await startWorker();
	for (const name of [queue, childQueue])
		await DBOS.registerQueue(name, queueSettings);
	await stopWorker();
	const client = await DBOSClient.create({
		systemDatabaseUrl, systemDatabasePool: enqueuePool, logger, applicationName: appName,
	});

	// Starts the worker of this process; its queues exist but for the first time.
	async function startWorker() {
		DBOS.setConfig(config);
		await DBOS.launch();
		launched = true;
	}

	// Ends the worker and its connections, when its running workflows have ended.
	async function stopWorker() {
		launched = false;
		await DBOS.shutdown({ workflowCompletionTimeoutMS: 60_000 });
		if (failures.length)
			throw new Error(`DBOS logged: ${String(failures.pop())}`);
	}

	const order = (workflowName) => ({ workflowName, queueName: queue, appVersion });
	const send = (i) => client.enqueue(order('noop'), i);

	// Enqueues that many workflows in bulk and gives the seconds it took.
	async function enqueue(workflows, workflowName, argumentOf) {
		const begun = now();
		for (let from = 0; from < workflows; from += bulkSize) {
			await database.query('BEGIN');
			for (let i = from; i < Math.min(from + bulkSize, workflows); i++)
				await client.enqueueInTransaction(database, order(workflowName), argumentOf(i));
			await database.query('COMMIT');
		}
		const seconds = (now() - begun) / 1000;
		await settleStatistics();
		return seconds;
	}

	// What autovacuum would do within the next minute: without it the first plans
	// know nothing of the rows that were just loaded.
	const settleStatistics = () => database.query('VACUUM (ANALYZE) dbos.workflow_status, dbos.workflow_input');

	// Copies one enqueued workflow many times: a million calls would take minutes.
	async function multiply(workflows) {
		const id = (await send(0)).workflowID;
		await database.query(`CREATE TEMP TABLE copy AS
			SELECT gen_random_uuid()::text AS id FROM generate_series(2, ${Number(workflows)})`);
		for (const table of ['workflow_status', 'workflow_input']) {
			const { rows: [{ names, values }] } = await database.query(`
				SELECT string_agg(quote_ident(column_name), ', ') AS names, string_agg(
					CASE column_name WHEN 'workflow_uuid' THEN 'copy.id' ELSE 'w.' || quote_ident(column_name) END, ', ') AS values
				FROM information_schema.columns
				WHERE table_schema = 'dbos' AND table_name = $1 AND is_generated = 'NEVER'`, [table]);
			await database.query(`INSERT INTO dbos.${table} (${names})
				SELECT ${values} FROM dbos.${table} w, copy WHERE w.workflow_uuid = $1`, [id]);
		}
		await database.query('DROP TABLE copy');
		await settleStatistics();
	}

	// Runs the worker until that many workflows ran and, if asked, none is left.
	// The time begins when the worker is up, or with its first workflow: launching
	// checks the schema and more, which is no work on the queue.
	async function drainWorkflows(workflows, untilEmpty) {
		const done = tally(workflows);
		listen(() => done.ran());
		await startWorker();
		const up = now();
		await within(done.reached, 900_000, 'the drain');
		if (untilEmpty)
			await confirmed(database, allSucceeded);
		const seconds = (now() - Math.min(up, done.first)) / 1000;
		await stopWorker();
		return seconds;
	}

	return {
		async drain({ jobs }) {
			const enqueueSeconds = await enqueue(jobs, 'noop', (i) => i);
			const seconds = await drainWorkflows(jobs, true);
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
			const enqueueSeconds = await enqueue(tasks, 'graph', () => shape);
			const seconds = await drainWorkflows(tasks, true);
			return { units: stepsOf(shape).length * tasks, tasks, seconds, enqueueSeconds };
		},
		async diamondIdle(options) {
			await startWorker();
			let done;
			listen(() => done.ran());
			const create = () => {
				done = tally(1);
				return client.enqueue(order('graph'), 'smallDiamond');
			};
			const finished = async () => {
				await within(done.reached, 60_000, 'a workflow');
				await confirmed(database, allSucceeded);
			};
			const result = await idleWorkflows(options, create, finished);
			await stopWorker();
			return result;
		},
		async fanout({ width }) {
			await enqueue(1, 'fan', () => width);
			const seconds = await drainWorkflows(1, true);
			return { units: width + 2, seconds };
		},
		// The rows of the backlog are made in SQL; up to 100 of the drained ones may
		// end after the last was counted, and the count shows that none was lost.
		async backlog({ waiting, drain }) {
			await enqueue(drain, 'noop', (i) => i);
			const emptySeconds = await drainWorkflows(drain, true);
			await multiply(waiting);
			const seconds = await drainWorkflows(drain, false);
			await confirmed(database, "SELECT count(*) >= $1 FROM dbos.workflow_status WHERE status = 'SUCCESS'",
				[2 * drain], { everyMs: 50 });
			return { units: drain, seconds, emptyUnits: drain, emptySeconds };
		},
		async close() {
			if (launched)
				await stopWorker();
			await client.destroy();
			await database.end();
			if (!enqueuePool.ended)
				await enqueuePool.end();
		},
	};
}

export default [{
	name: 'dbos',
	variant: 'queued',
	kind: 'dag',
	available: () => missingModule('@dbos-inc/dbos-sdk'),
	open,
}];
