// tasker with four kinds of executors: push, await and pull are plain Node
// clients, libpq is a C one that shows the limit.

import { Tasker } from './database.js';
import { AwaitExecutor, LibpqExecutor, PullExecutor, PushExecutor } from './executors.js';
import { backlog, diamondIdle, drain, fanout, hop, latency, openLoopLatency, runShapes } from './workloads.js';
import { commits, idleExecutors, retries, snapshot } from './promises.js';
import { telemetry } from './telemetry.js';

const everyKind = { drain, shapes: runShapes, fanout, backlog };
const latencies = { latency, openLoop: openLoopLatency, diamondIdle, hop };
const kinds = [
	{
		variant: 'push', Executor: PushExecutor,
		workloads: {
			...everyKind, ...latencies, snapshot, commits, idleExecutors, retries, telemetry,
		},
	},
	{ variant: 'await', Executor: AwaitExecutor, workloads: { ...everyKind, ...latencies }, needs: 'await_steps' },
	{ variant: 'pull', Executor: PullExecutor, workloads: { ...everyKind, snapshot } },
	{
		variant: 'libpq', Executor: LibpqExecutor, workloads: everyKind,
		missing: () => process.env.TASKER_BENCH_EXECUTOR ? null : 'executor.c could not be compiled',
	},
];

async function available(admin, missing) {
	const { rows } = await admin.query("SELECT FROM pg_available_extensions WHERE name = 'tasker'");
	return rows.length ? missing?.() ?? null : 'the extension is not installed';
}

export default kinds.map(({ variant, Executor, workloads, needs, missing }) => ({
	name: 'tasker', variant, kind: 'dag',
	available: (admin) => available(admin, missing),
	open: async (url) => {
		const tasker = await Tasker.open(url, Executor);
		const instance = { close: () => tasker.close(), verify: () => tasker.verify() };
		// What this version of tasker does not have it cannot do.
		const able = !needs || await tasker.has(needs);
		for (const [name, run] of able ? Object.entries(workloads) : []) {
			instance[name] = (sizes) => run(tasker, sizes);
		}
		return instance;
	},
}));
