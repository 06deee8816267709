// The workloads: which method of a system's instance runs, with what sizes, and
// how its outcome is to be read. unit says what is counted, quickSeconds how long
// a run in quick mode may take where that is more than most need.

export const workloads = [
	{
		name: 'drain', method: 'drain', topic: 'Throughput', reads: 'rate', unit: 'jobs',
		title: 'one-step jobs, drained by one worker',
		quick: { jobs: 20000 }, full: { jobs: 100000 },
	},
	...['linear', 'diamond', 'parallel_merge', 'tree', 'mixed'].map((shape) => ({
		name: `shape-${shape}`, method: 'shapes', topic: 'Throughput', reads: 'rate', unit: 'steps',
		title: `workflows: ${shape.replace('_', ' ')}`,
		quick: { shape, tasks: 300 }, full: { shape, tasks: 2000 },
	})),
	...[1000, 10000].map((width) => ({
		name: `fanout-${width}`, method: 'fanout', topic: 'Throughput', reads: 'seconds', unit: 'steps',
		title: `fan-out 1 → ${width.toLocaleString('en')} → 1`,
		quick: { width }, full: { width },
	})),
	{
		name: 'latency', method: 'latency', topic: 'Latency', reads: 'samples',
		title: 'idle: commit of the creation → handler starts',
		quick: { samples: 200, everyMs: 20 }, full: { samples: 1000, everyMs: 20 },
	},
	{
		name: 'hop', method: 'hop', topic: 'Latency', reads: 'samples',
		title: 'idle: completion committed → handler of the next step starts',
		quick: { samples: 1000 }, full: { samples: 5000 },
	},
	{
		name: 'open-loop', method: 'openLoop', topic: 'Latency', reads: 'samples',
		title: '500 jobs a second: meant to be created → handler starts',
		quick: { ratePerSecond: 500, seconds: 5 }, full: { ratePerSecond: 500, seconds: 30 },
	},
	{
		name: 'diamond-idle', method: 'diamondIdle', topic: 'Latency', reads: 'samples',
		title: 'idle: one diamond a → b, c → d, creation → end',
		quick: { samples: 10 }, full: { samples: 50 },
	},
	{
		name: 'backlog', method: 'backlog', topic: 'Flat cost', reads: 'flat', unit: 'jobs',
		title: 'rate with a backlog, against nearly none',
		quick: { waiting: 100000, drain: 20000 }, full: { waiting: 1000000, drain: 100000 },
	},
	{
		name: 'snapshot', method: 'snapshot', topic: 'Flat cost', reads: 'flat', unit: 'jobs', runs: 1,
		title: 'the same while an old snapshot is held',
		quick: { waiting: 100000, heldSeconds: 20 }, full: { waiting: 1000000, heldSeconds: 600 },
	},
	{
		name: 'commits', method: 'commits', topic: 'The application beside it', reads: 'commits',
		title: "the application's own commits",
		quick: { clients: 16, seconds: 3 }, full: { clients: 16, seconds: 20 },
	},
	{
		name: 'idle-executors', method: 'idleExecutors', topic: 'The application beside it', reads: 'idle',
		title: 'latency with idle executors connected',
		quick: { n: 1000, samples: 150 }, full: { n: 1000, samples: 1000 },
	},
	{
		name: 'telemetry', method: 'telemetry', topic: 'Telemetry', reads: 'telemetry', unit: 'steps', runs: 1, quickSeconds: 180,
		title: 'nobody looks on, and everything that may look on',
		quick: { tasks: 2000, rounds: 9 }, full: { tasks: 10000, rounds: 9 },
	},
	{
		name: 'retries', method: 'retries', topic: 'Latency', reads: 'samples', unit: 'jobs',
		title: '20 % fail: end of the backoff → claimed again',
		quick: { tasks: 2000, everyMs: 2 }, full: { tasks: 20000, everyMs: 2 },
	},
	{
		name: 'floor', method: 'floor', topic: 'The floor', reads: 'floor',
		title: 'PostgreSQL itself (pgbench)',
		quick: { clients: [1, 4, 16], seconds: 2 }, full: { clients: [1, 4, 16], seconds: 10 },
	},
];
