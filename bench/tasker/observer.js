// Everything that may look on while tasker works, in a process of its own: a
// consumer reads all events with their payloads, a session hears all of them
// live, a schedule and a trigger are there, and the metrics are scraped every
// second. telemetry.js starts it with the connection string and, where it and its
// sessions are to have some for themselves, cores; a line on its input ends it.

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

const [url, ...cores] = process.argv.slice(2);
let stopping = false;

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
	async consume() {
		for (let events = 0, last = false; ;) {
			const ending = stopping;
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

async function scrape(session) {
	let scrapes = 0;
	for (let next = performance.now(); !stopping; next += SCRAPE) {
		await scrapeOnce(session);
		scrapes++;
		while (!stopping && performance.now() < next + SCRAPE) {
			await sleep(Math.min(20, SCRAPE));
		}
	}
	return scrapes;
}

// CPU seconds of a process.
const cpuOf = (pid) => Number(readFileSync(`/proc/${pid}/schedstat`, 'latin1').split(' ')[0]) / 1e9;

const consumer = new Consumer();
const [session, listener] = await Promise.all([connect(url), connect(url)]);
let heard = 0;
listener.on('notification', ({ payload }) => {
	for (let at = payload.indexOf('"event_key"'); at >= 0; at = payload.indexOf('"event_key"', at + 60)) {
		heard++;
	}
});
await listener.query('LISTEN bench_live');
await session.query("SELECT tasker.create_event_consumer('bench', '{*}')");
await session.query("SELECT tasker.subscribe('{*}', 'bench_live')");
await session.query("SELECT tasker.schedule_task('bench', '* * * * *', $1)", [JSON.stringify({ name: 'single' })]);
await session.query("SELECT tasker.start_task_on_event('bench', 'task.failed', $1)", [JSON.stringify({ name: 'single' })]);
// What a session does the first time, connecting and planning, is not what is measured.
await consumer.start();
await scrapeOnce(session);
const processes = { readerCpu: consumer.pid, scraperCpu: session.processID, listenerCpu: listener.processID, psqlCpu: consumer.clientPid, ownCpu: process.pid };
if (cores.length > 0 && !confine(Object.values(processes), cores)) {
	throw new Error(`the observers cannot be kept to the cores ${cores}`);
}
const readCpu = () => Object.fromEntries(Object.entries(processes).map(([name, pid]) => [name, cpuOf(pid)]));
const before = readCpu();
const done = Promise.all([consumer.consume(), scrape(session)]);
console.log('ready');
await once(process.stdin, 'data');
stopping = true;
const begin = performance.now();
const [events, scrapes] = await done;
const behindSeconds = (performance.now() - begin) / 1000;
const after = readCpu();
await session.query("SELECT tasker.unschedule_task('bench'), tasker.drop_task_trigger('bench'), tasker.unsubscribe('bench_live'), tasker.drop_event_consumer('bench')");
consumer.end();
console.log(JSON.stringify({
	events, heard, scrapes, behindSeconds, ...Object.fromEntries(Object.entries(after).map(([name, seconds]) => [name, seconds - before[name]])),
}));
process.exit(0);
