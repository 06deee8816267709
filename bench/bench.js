#!/usr/bin/env node
// Measures tasker beside its peers; README.md says what and how.

import { execFileSync, fork } from 'node:child_process';
import { appendFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { cpus, release, tmpdir, totalmem } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { connectAdmin, describe, recycleLog } from './server.js';
import { loadSystems } from './systems.js';
import { workloads } from './workloads.js';
import { figure, report } from './report.js';

const USAGE = `usage: node bench.js [--quick] [--workload NAME,...] [--system NAME,...] [--runs N] [--out DIR] [--no-warm-up]

The server: PGHOST, PGPORT, PGUSER. A workload or system is named in full or by
its beginning: --workload shape runs all shapes, --system tasker all of tasker.

workloads: ${workloads.map(({ name }) => name).join(', ')}`;

// A run that takes longer has failed.
const QUICK_SECONDS = 60;
const FULL_SECONDS = 3600;

const say = (line) => console.log(line);

function readArguments() {
	const { values } = parseArgs({
		options: {
			quick: { type: 'boolean', default: false },
			workload: { type: 'string' },
			system: { type: 'string' },
			runs: { type: 'string' },
			out: { type: 'string', default: fileURLToPath(new URL('results', import.meta.url)) },
			'no-warm-up': { type: 'boolean', default: false },
			help: { type: 'boolean', default: false },
		},
	});
	if (values.runs !== undefined && !/^[1-9]\d*$/.test(values.runs)) {
		throw new Error(`--runs is not a number: ${values.runs}`);
	}
	return { ...values, runs: values.runs && Number(values.runs) };
}

// Those of the list whose name begins with one of the given ones.
function choose(list, nameOf, given, what) {
	if (!given) {
		return list;
	}
	const wanted = given.split(',');
	for (const name of wanted) {
		if (!list.some((item) => nameOf(item).startsWith(name))) {
			throw new Error(`no ${what} ${name}; there are: ${list.map(nameOf).join(', ')}`);
		}
	}
	return list.filter((item) => wanted.some((name) => nameOf(item).startsWith(name)));
}

// Compiles executor.c into the folder and says so in the environment, where
// the executors look for it.
function compileExecutor(folder) {
	try {
		const program = join(folder, 'executor');
		const pgConfig = (option) => execFileSync('pg_config', [option], { encoding: 'utf8' }).trim();
		execFileSync('cc', ['-O2', '-Wall', '-o', program, fileURLToPath(new URL('tasker/executor.c', import.meta.url)),
			// A copy of the server's programs may lead to headers that were not copied.
			`-I${pgConfig('--includedir')}`, '-I/usr/include/postgresql', `-L${pgConfig('--libdir')}`, '-lpq'], { stdio: ['ignore', 'ignore', 'pipe'] });
		process.env.TASKER_BENCH_EXECUTOR = program;
	} catch (error) {
		say(`executor.c: ${String(error.stderr ?? error.message).split('\n').slice(0, 3).join(' ')}`);
	}
}

// The systems that can run here; the others are named with their reasons.
async function findSystems(admin, given) {
	const all = await loadSystems((module, reason) => say(`SKIPPED ${module}: ${reason}`));
	const found = [];
	for (const system of choose(all, ({ label }) => label, given, 'system')) {
		const reason = await system.available(admin);
		if (reason) {
			say(`SKIPPED ${system.label}: ${reason}`);
		} else {
			found.push(system);
		}
	}
	return found;
}

// One run in a process of its own; slow says that it was ended after so many seconds.
function runOnce(order, seconds) {
	return new Promise((resolve) => {
		const child = fork(fileURLToPath(new URL('one-run.js', import.meta.url)), { stdio: ['ignore', 'ignore', 'pipe', 'ipc'] });
		let answer;
		let complaints = '';
		const timer = setTimeout(() => {
			answer = { error: `not done after ${seconds} seconds`, slow: true };
			child.kill('SIGKILL');
		}, seconds * 1000);
		child.stderr.on('data', (text) => { complaints = (complaints + text).slice(-2000); });
		child.on('message', (message) => { answer ??= message; });
		child.on('close', (status) => {
			clearTimeout(timer);
			resolve(answer ?? { error: `the process ended with status ${status}: ${complaints}` });
		});
		child.send(order);
	});
}

// All runs of one workload, the systems in turn, so that a drift of the
// machine hits all of them.
async function runWorkload(workload, systems, settings, note) {
	const runs = settings.runs ?? (settings.quick ? 1 : workload.runs ?? 3);
	const sizes = settings.quick ? workload.quick : workload.full;
	for (let run = 1; run <= runs; run++) {
		for (const system of systems) {
			if (system.methods && !system.methods.includes(workload.method)) {
				continue;
			}
			const order = { system: system.label, workload: workload.method, sizes, quick: settings.quick, database: 'tasker_bench' };
			const begin = performance.now();
			const { ok, ...problem } = await runOnce(order, settings.quick ? workload.quickSeconds ?? QUICK_SECONDS : FULL_SECONDS);
			if (ok?.unsupported) {
				system.methods = ok.unsupported;
				continue;
			}
			const line = { workload: workload.name, system: system.label, kind: system.kind, run, sizes, tookSeconds: (performance.now() - begin) / 1000, ...(ok ?? problem) };
			note(line);
			say(`${workload.name.padEnd(20)} ${system.label.padEnd(20)} ${ok ? figure(workload, line) : `FAILED ${problem.error}`}`);
		}
	}
}

async function main() {
	const settings = readArguments();
	if (settings.help) {
		return say(USAGE);
	}
	const chosen = choose(workloads, ({ name }) => name, settings.workload, 'workload');
	const folder = mkdtempSync(join(tmpdir(), 'bench-'));
	const begin = performance.now();
	let failed = 0;
	try {
		const admin = await connectAdmin();
		compileExecutor(folder);
		const systems = await findSystems(admin, settings.system);
		if (!settings['no-warm-up']) {
			await recycleLog(admin, say);
		}
		mkdirSync(settings.out, { recursive: true });
		const raw = join(settings.out, 'raw.jsonl');
		writeFileSync(raw, JSON.stringify({
			about: {
				date: new Date().toISOString().slice(0, 10), quick: settings.quick, node: process.version,
				processor: cpus()[0].model, cores: cpus().length, memoryGigabytes: Math.round(totalmem() / 2 ** 30),
				kernel: release(), server: await describe(admin),
			},
		}) + '\n');
		const note = (line) => {
			// That a peer is slow is an outcome, not a failure of the benchmark.
			failed += line.error && !(line.slow && !line.system.startsWith('tasker')) ? 1 : 0;
			appendFileSync(raw, JSON.stringify(line) + '\n');
		};
		for (const workload of chosen) {
			await runWorkload(workload, systems, settings, note);
		}
		await admin.end();
		report(settings.out);
		say(`took ${Math.round((performance.now() - begin) / 1000)} s; ${failed} runs failed; results: ${settings.out}`);
	} finally {
		rmSync(folder, { recursive: true, force: true });
	}
	process.exitCode = failed ? 1 : 0;
}

main().catch((error) => {
	console.error(`bench: ${error.message}`);
	process.exitCode = 2;
});
