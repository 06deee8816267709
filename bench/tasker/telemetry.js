// What telemetry costs: the same workflows with nobody looking on and with
// everything that may look on (observer.js), in turn, at the events of tasks and
// at all events: on the same cores, and where there are two of them on cores of
// their own.

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

// The process that looks on when it is told to. It is there, idle, while nobody looks on, too: after it has
// started another process Node copies each page of memory that it writes to, which would count as telemetry.
class Observer {
	#child;
	#lines;

	constructor(url) {
		this.#child = spawn(process.execPath, [fileURLToPath(new URL('observer.js', import.meta.url)), url], { stdio: ['pipe', 'pipe', 'inherit'] });
		this.#lines = createInterface({ input: this.#child.stdout });
	}

	async #ask(question) {
		this.#child.stdin.write(`${JSON.stringify(question)}\n`);
		const failed = new AbortController();
		try {
			const [line] = await Promise.race([
				once(this.#lines, 'line', failed),
				once(this.#child, 'exit', failed).then(([status]) => {
					throw new Error(`the observer ended with status ${status}`);
				}),
			]);
			return JSON.parse(line);
		} finally {
			failed.abort();
		}
	}

	// Begins to look on at the events of some patterns, with its sessions on certain cores or anywhere.
	begin(patterns, cores) {
		return this.#ask({ patterns, cores });
	}

	// Ends it; what was seen.
	end() {
		return this.#ask({});
	}

	close() {
		this.#child.stdin.end();
	}
}

const TRACED = { traceparent: '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01' };

const WARM_UP = 200; // tasks

// The events that are looked on at; null: nobody looks on.
const KINDS = { off: null, tasks: ['task.*'], all: ['*'] };

// Creates and runs so many workflows, while the observer looks on at some events or nobody does.
async function load(tasker, tasks, observer, patterns, cores) {
	if (patterns) {
		await observer.begin(patterns, cores);
	}
	const executor = await tasker.start();
	const { rows: [{ pid: orchestrator }] } = await tasker.db.query('SELECT pid FROM tasker.stat_orchestrator');
	const executors = executor.owns.map(({ session }) => session.processID);
	const run = async (count) => {
		const goal = executor.completed + count * shapes.diamond.length;
		await tasker.create('diamond', count, patterns ? TRACED : {});
		await executor.until(goal);
		await tasker.finalized();
	};
	// What is done once after somebody has come to look on, or gone, is not what is measured.
	await run(WARM_UP);
	const settled = executor.completed;
	const before = { orchestrator: cpuOf([orchestrator]), executors: cpuOf(executors) };
	const begin = performance.now();
	await run(tasks);
	const seconds = (performance.now() - begin) / 1000;
	const steps = executor.completed - settled;
	const outcome = {
		seconds, units: executor.completed, perSecond: steps / seconds,
		orchestratorMicroseconds: (cpuOf([orchestrator]) - before.orchestrator) / steps * 1e6,
		executorMicroseconds: (cpuOf(executors) - before.executors) / steps * 1e6,
	};
	const seen = patterns && await observer.end();
	await tasker.finalized();
	await executor.stop();
	tasker.expected += executor.completed;
	if (!seen) {
		return outcome;
	}
	const observers = seen.readerCpu + seen.scraperCpu + seen.listenerCpu + seen.psqlCpu + seen.ownCpu;
	return { ...outcome, ...seen, observerMicroseconds: observers / executor.completed * 1e6 };
}

// Rounds of all kinds, each begins in turn; the ratios are the medians of the rounds'.
async function inTurn(tasker, { tasks, rounds }, observer, cores) {
	const names = Object.keys(KINDS);
	const runs = Object.fromEntries(names.map((name) => [name, []]));
	for (let round = 0; round < rounds; round++) {
		for (const i of names.keys()) {
			const name = names[(round + i) % names.length];
			runs[name].push(await load(tasker, tasks, observer, KINDS[name], cores));
		}
	}
	const ratio = (name) => median(runs[name].map((run, i) => run.perSecond / runs.off[i].perSecond));
	return { ...runs, ratios: { tasks: ratio('tasks'), all: ratio('all') } };
}

// The same with the server and the executors on one half of the cores, and the observers on the other one; null
// where that is not possible.
async function apart(tasker, sizes, observer) {
	const cores = allowedCores();
	const half = Math.floor(cores.length / 2);
	const everything = async () => [process.pid, ...await serverProcesses(tasker.db)];
	try {
		return half > 0 && confine(await everything(), cores.slice(0, half)) ? await inTurn(tasker, sizes, observer, cores.slice(half)) : null;
	} finally {
		confine(await everything(), cores);
	}
}

export async function telemetry(tasker, sizes) {
	await tasker.define('diamond', shapes.diamond);
	await tasker.define('single', single);
	const observer = new Observer(tasker.url);
	await load(tasker, sizes.tasks, observer, KINDS.all);
	const together = await inTurn(tasker, sizes, observer);
	const separate = await apart(tasker, sizes, observer);
	observer.close();
	const events = await tasker.db.query(`
		SELECT (SELECT count(*) FROM tasker.task_transition_log) + (SELECT count(*) FROM tasker.workflow_step_transition_log) AS all`);
	const runs = [together, separate ?? {}].flatMap((place) => Object.keys(KINDS).flatMap((name) => place[name] ?? []));
	return {
		...together, apart: separate, logRows: Number(events.rows[0].all),
		units: runs.reduce((sum, { units }) => sum + units, 0), seconds: runs.reduce((sum, { seconds }) => sum + seconds, 0),
	};
}
