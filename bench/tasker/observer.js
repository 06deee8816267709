// Everything that may look on while tasker works, in a process of its own: a
// consumer reads events with their payloads, a session hears them live, a
// schedule and a trigger are there, and the metrics are scraped every second.
// telemetry.js starts it with the connection string, and writes a line to begin,
// with the patterns of those events and with the cores that it and its sessions
// are to have for themselves if there are any, and one to end; each is answered
// by a line of JSON.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { confine } from '../cores.js';
import { connect } from '../server.js';

const PAGE = 2000; // events of one call
const PAUSE = 100; // milliseconds until the consumer looks again when it has read all
const SCRAPE = 1000;

const [url] = process.argv.slice(2);

// What a program does with a payload is its own affair: psql's \copy receives
// each event with its payload, and drops it.
class Consumer {
	#psql = spawn('psql', ['-AtX', '-v', 'ON_ERROR_STOP=1', url], { stdio: ['pipe', 'pipe', 'inherit'] });
	#lines = createInterface({ input: this.#psql.stdout });

	async #answer(command) {
		this.#psql.stdin.write(`${command}\n`);
		const [line] = await once(this.#lines, 'line');
		return line;
	}

	async start() {
		this.pid = Number(await this.#answer('SELECT pg_backend_pid();'));
		this.clientPid = this.#psql.pid;
		await this.read();
	}

	// The next events; how many there were.
	async read() {
		return Number((await this.#answer(`\\copy (SELECT * FROM tasker.read_events('bench', ${PAGE})) TO '/dev/null'`)).replace('COPY ', ''));
	}

	// Reads on until it has read everything that happened before the end.
	async consume(state) {
		for (let events = 0, last = false; ;) {
			const ending = state.stopping;
			const count = await this.read();
			events += count;
			if (count < PAGE) {
				if (last) {
					return events;
				}
				last = ending;
				await (ending || sleep(PAUSE));
			}
		}
	}

	end() {
		this.#psql.stdin.end();
	}
}

// What is scraped, once.
const scrapeOnce = (session) => session.query('SELECT * FROM tasker.metrics');

async function scrape(session, state) {
	let scrapes = 0;
	for (let next = performance.now(); !state.stopping; next += SCRAPE) {
		await scrapeOnce(session);
		scrapes++;
		while (!state.stopping && performance.now() < next + SCRAPE) {
			await sleep(Math.min(20, SCRAPE));
		}
	}
	return scrapes;
}

// CPU seconds of a process.
const cpuOf = (pid) => Number(readFileSync(`/proc/${pid}/schedstat`, 'latin1').split(' ')[0]) / 1e9;

// Looks on at the events of some patterns; returns a function that ends it and tells what was seen.
async function observe(patterns, cores) {
	const consumer = new Consumer();
	const [session, listener] = await Promise.all([connect(url), connect(url)]);
	const state = { stopping: false };
	let heard = 0;
	listener.on('notification', ({ payload }) => {
		for (let at = payload.indexOf('"event_key"'); at >= 0; at = payload.indexOf('"event_key"', at + 60)) {
			heard++;
		}
	});
	await listener.query('LISTEN bench_live');
	await session.query("SELECT tasker.create_event_consumer('bench', $1)", [patterns]);
	await session.query("SELECT tasker.subscribe($1, 'bench_live')", [patterns]);
	await session.query("SELECT tasker.schedule_task('bench', '* * * * *', $1)", [JSON.stringify({ name: 'single' })]);
	await session.query("SELECT tasker.start_task_on_event('bench', 'task.failed', $1)", [JSON.stringify({ name: 'single' })]);
	// What a session does the first time, connecting and planning, is not what is measured.
	await consumer.start();
	await scrapeOnce(session);
	const processes = { readerCpu: consumer.pid, scraperCpu: session.processID, listenerCpu: listener.processID, psqlCpu: consumer.clientPid, ownCpu: process.pid };
	if (cores && !confine(Object.values(processes), cores)) {
		throw new Error(`the observers cannot be kept to the cores ${cores}`);
	}
	const readCpu = () => Object.fromEntries(Object.entries(processes).map(([name, pid]) => [name, cpuOf(pid)]));
	const before = readCpu();
	const done = Promise.all([consumer.consume(state), scrape(session, state)]);
	return async () => {
		state.stopping = true;
		const begin = performance.now();
		const [events, scrapes] = await done;
		const behindSeconds = (performance.now() - begin) / 1000;
		const after = readCpu();
		await session.query("SELECT tasker.unschedule_task('bench'), tasker.drop_task_trigger('bench'), tasker.unsubscribe('bench_live'), tasker.drop_event_consumer('bench')");
		consumer.end();
		await Promise.all([session.end(), listener.end()]);
		return {
			events, heard, scrapes, behindSeconds, ...Object.fromEntries(Object.entries(after).map(([name, seconds]) => [name, seconds - before[name]])),
		};
	};
}

let end;
for await (const line of createInterface({ input: process.stdin })) {
	const { patterns, cores } = JSON.parse(line);
	if (patterns) {
		end = await observe(patterns, cores);
	}
	console.log(JSON.stringify(patterns ? {} : await end()));
}
process.exit(0);
