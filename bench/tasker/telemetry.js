// What telemetry costs: the same workflows with nobody looking on and with
// everything that may look on (observer.js), in turn: on the same cores, and
// where there are two of them on cores of their own.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { allowedCores, confine } from '../cores.js';
import { median, serverProcesses } from '../measure.js';
import { shapes, single } from '../shapes.js';

// CPU seconds of processes of the server, to the nanosecond.
const cpuOf = (pids) => pids.reduce((sum, pid) => sum + Number(readFileSync(`/proc/${pid}/schedstat`, 'latin1').split(' ')[0]) / 1e9, 0);

// Starts the observer, on cores of its own if they are named; end() tells what it has seen.
async function observe(url, cores) {
	const child = spawn(process.execPath, [fileURLToPath(new URL('observer.js', import.meta.url)), url, ...cores ?? []], { stdio: ['pipe', 'pipe', 'inherit'] });
	const lines = createInterface({ input: child.stdout });
	const next = async () => {
		const [line] = await Promise.race([once(lines, 'line'), once(child, 'exit').then(([status]) => {
			throw new Error(`the observer ended with status ${status}`);
		})]);
		return line;
	};
	await next();
	return {
		end: async () => {
			child.stdin.end('end\n');
			return JSON.parse(await next());
		},
	};
}

const TRACED = { traceparent: '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01' };

// Creates and runs so many workflows; with or without an observer, on certain cores or anywhere.
async function load(tasker, tasks, observed, cores) {
	const observer = observed ? await observe(tasker.url, cores) : null;
	const executor = await tasker.start();
	const { rows: [{ pid: orchestrator }] } = await tasker.db.query('SELECT pid FROM tasker.stat_orchestrator');
	const executors = executor.owns.map(({ session }) => session.processID);
	const before = { orchestrator: cpuOf([orchestrator]), executors: cpuOf(executors) };
	const units = tasks * shapes.diamond.length;
	const begin = performance.now();
	await tasker.create('diamond', tasks, observed ? TRACED : {});
	await executor.until(units);
	await tasker.finalized();
	const seconds = (performance.now() - begin) / 1000;
	const outcome = {
		perSecond: executor.completed / seconds,
		orchestratorMicroseconds: (cpuOf([orchestrator]) - before.orchestrator) / executor.completed * 1e6,
		executorMicroseconds: (cpuOf(executors) - before.executors) / executor.completed * 1e6,
	};
	const seen = await observer?.end();
	await tasker.finalized();
	await executor.stop();
	tasker.expected += executor.completed;
	return { ...outcome, ...(seen && { ...seen, observerMicroseconds: (seen.readerCpu + seen.scraperCpu + seen.listenerCpu + seen.psqlCpu + seen.ownCpu) / executor.completed * 1e6 }), seconds, units: executor.completed };
}

// Rounds of both, the one that begins changes; the ratio is the median of the rounds'.
async function inTurn(tasker, { tasks, rounds }, cores) {
	const off = [];
	const on = [];
	for (let round = 0; round < rounds; round++) {
		for (const observed of round % 2 ? [true, false] : [false, true]) {
			(observed ? on : off).push(await load(tasker, tasks, observed, cores));
		}
	}
	return { off, on, ratio: median(on.map((run, i) => run.perSecond / off[i].perSecond)) };
}

// The same with the server and the executors on one half of the cores, and the observers on the other one; null
// where that is not possible.
async function apart(tasker, sizes) {
	const cores = allowedCores();
	const half = Math.floor(cores.length / 2);
	const everything = async () => [process.pid, ...await serverProcesses(tasker.db)];
	try {
		return half > 0 && confine(await everything(), cores.slice(0, half)) ? await inTurn(tasker, sizes, cores.slice(half)) : null;
	} finally {
		confine(await everything(), cores);
	}
}

export async function telemetry(tasker, sizes) {
	await tasker.define('diamond', shapes.diamond);
	await tasker.define('single', single);
	await load(tasker, sizes.tasks, false);
	const together = await inTurn(tasker, sizes);
	const separate = await apart(tasker, sizes);
	const events = await tasker.db.query(`
		SELECT (SELECT count(*) FROM tasker.task_transition_log) + (SELECT count(*) FROM tasker.workflow_step_transition_log) AS all`);
	const all = [together, separate ?? { off: [], on: [] }].flatMap(({ off, on }) => [...off, ...on]);
	return {
		...together, apart: separate, logRows: Number(events.rows[0].all),
		units: all.reduce((sum, { units }) => sum + units, 0), seconds: all.reduce((sum, { seconds }) => sum + seconds, 0),
	};
}
