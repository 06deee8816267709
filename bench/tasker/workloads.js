// The workloads that the peers run, too, and the hop from step to step.

import { setTimeout as sleep } from 'node:timers/promises';
import { connect } from '../server.js';
import { openLoop } from '../measure.js';
import { chain, fan, shapes, single, smallDiamond } from '../shapes.js';

// Runs what is there to its end: seconds from the start of the executor to the
// last task's outcome.
async function runToEnd(tasker, units) {
	const begin = performance.now();
	const executor = await tasker.start();
	await executor.until(units);
	const stepsDone = performance.now();
	await tasker.finalized();
	const end = performance.now();
	await executor.stop();
	tasker.expected += executor.completed;
	return { seconds: (end - begin) / 1000, stepSeconds: (stepsDone - begin) / 1000 };
}

export async function drain(tasker, { jobs }) {
	await tasker.define('single', single);
	const enqueueSeconds = await tasker.create('single', jobs);
	const { seconds, stepSeconds } = await runToEnd(tasker, jobs);
	return { units: jobs, seconds, stepSeconds, enqueueSeconds };
}

export async function runShapes(tasker, { shape, tasks }) {
	const steps = shapes[shape];
	await tasker.define(shape, steps);
	const enqueueSeconds = await tasker.create(shape, tasks);
	const units = tasks * steps.length;
	const { seconds } = await runToEnd(tasker, units);
	return { units, tasks, seconds, enqueueSeconds };
}

export async function fanout(tasker, { width }) {
	const units = width + 2;
	await tasker.define('fan', fan(width));
	const executor = await tasker.start();
	const enqueueSeconds = await tasker.create('fan', 1);
	const begin = performance.now();
	await executor.until(units);
	await tasker.finalized();
	const seconds = (performance.now() - begin) / 1000;
	await executor.stop();
	tasker.expected += units;
	return { units, seconds, enqueueSeconds };
}

// Single tasks, created one by one: sent[n] is when creation n was meant to be
// sent, created[n] when its commit was known, started[n] when its handler began.
async function createOneByOne(tasker, count, everyMs, connections) {
	await tasker.define('single', single);
	const sent = new Float64Array(count);
	const created = new Float64Array(count);
	const started = new Float64Array(count);
	const executor = await tasker.start({
		connections: 1, capacity: 100,
		onStart: (step, now) => { started[step.inputs.n] = now; },
	});
	const creators = await Promise.all(Array.from({ length: connections }, () => connect(tasker.url)));
	const create = (creator, n) => creator.query({
		name: 'create', text: "SELECT tasker.create_task('single', $1)", values: [{ n }],
	});
	// The first of a session is slower: it plans its statements. Number -1 is nowhere.
	await Promise.all(creators.map((creator) => create(creator, -1)));
	await executor.until(connections);
	const begin = performance.now();
	await openLoop(count, everyMs, (n, due) => {
		sent[n] = due;
		create(creators[n % connections], n).then(() => { created[n] = performance.now(); }, (error) => executor.fail(error));
	});
	await executor.until(count + connections);
	const seconds = (performance.now() - begin) / 1000;
	await executor.stop();
	await Promise.all(creators.map((creator) => creator.end()));
	tasker.expected += executor.completed;
	return { sent, created, started, seconds };
}

// The handler may have begun before the creator heard of its commit: that is 0.
const between = (from, to) => Array.from(from, (begin, i) => Math.max(0, to[i] - begin));

export async function latency(tasker, { samples, everyMs }) {
	const { created, started, sent } = await createOneByOne(tasker, samples, everyMs, 1);
	return { samples: between(created, started), fromSending: between(sent, started) };
}

export async function openLoopLatency(tasker, { ratePerSecond, seconds }) {
	const count = ratePerSecond * seconds;
	const run = await createOneByOne(tasker, count, 1000 / ratePerSecond, 8);
	return { samples: between(run.sent, run.started), achieved: count / run.seconds };
}

export async function diamondIdle(tasker, { samples }) {
	await tasker.define('small_diamond', smallDiamond);
	const executor = await tasker.start({ connections: 1, capacity: 100 });
	const times = [];
	for (let i = -1; i < samples; i++) {
		await sleep(20);
		const goal = executor.completed + smallDiamond.length;
		await tasker.db.query({ name: 'create', text: "SELECT tasker.create_task('small_diamond', $1)", values: [{ n: i }] });
		const begin = performance.now();
		await executor.until(goal);
		await tasker.finalized(0);
		if (i >= 0) {
			times.push(performance.now() - begin);
		}
	}
	await executor.stop();
	tasker.expected += executor.completed;
	return { samples: times };
}

// Along a chain on an idle system: the commit of a completion is known → the
// handler of the next step begins.
export async function hop(tasker, { samples }) {
	const length = 50;
	await tasker.define('chain', chain(length));
	const times = [];
	let first;
	const executor = await tasker.start({
		connections: 1, capacity: 10,
		onStart: (step, now) => {
			if (!first) {
				times.push(Math.max(0, now - executor.reportedAt));
			}
			first = false;
		},
	});
	for (let goal = length; times.length < samples; goal += length) {
		first = true;
		await tasker.create('chain', 1);
		await executor.until(goal);
	}
	await executor.stop();
	tasker.expected += executor.completed;
	return { samples: times };
}

export async function backlog(tasker, { waiting, drain: count }) {
	await tasker.define('single', single);
	await tasker.create('single', count);
	const empty = await tasker.drainSome(count);
	const enqueueSeconds = await tasker.create('single', waiting);
	await tasker.discovered(waiting);
	const full = await tasker.drainSome(count);
	return { ...full, emptyUnits: empty.units, emptySeconds: empty.seconds, enqueueSeconds };
}
