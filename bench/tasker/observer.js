// Everything that may look on while tasker works, in a process of its own: a
// consumer reads all events with their payloads, a session hears all of them
// live, a schedule runs, and the metrics are scraped every second.
// telemetry.js starts it with the connection string; a line on its input ends it.

import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { connect } from '../server.js';

const PAGE = 10000; // events of one call
const PAUSE = 100; // milliseconds until the consumer looks again when it has read all
const SCRAPE = 1000;
// tasker.metrics is there since it is there; the others always.
const VIEWS = ['stat_orchestrator', 'stat_latencies', 'stat_executors', 'stat_event_consumers', 'stat_templates', 'metrics'];

const [url] = process.argv.slice(2);
let stopping = false;

// What a program does with a payload is its own affair: here it stays text.
const asText = { getTypeParser: () => (value) => value };

// Reads on until it has read everything that happened before the end.
async function consume(session) {
	let events = 0;
	for (let last = false; ;) {
		const ending = stopping;
		const { rows: { length } } = await session.query({ name: 'read', text: "SELECT * FROM tasker.read_events('bench', $1)", values: [PAGE], types: asText });
		events += length;
		if (length < PAGE) {
			if (last) {
				return events;
			}
			last = ending;
			await (ending || sleep(PAUSE));
		}
	}
}

async function scrape(session) {
	const { rows } = await session.query(`
		SELECT relname AS view FROM pg_class WHERE relnamespace = 'tasker'::regnamespace AND relkind = 'v' AND relname = ANY ($1)`, [VIEWS]);
	let scrapes = 0;
	for (let next = performance.now(); !stopping; next += SCRAPE) {
		for (const { view } of rows) {
			await session.query(`SELECT * FROM tasker.${view}`);
		}
		scrapes++;
		while (!stopping && performance.now() < next + SCRAPE) {
			await sleep(Math.min(20, SCRAPE));
		}
	}
	return scrapes;
}

// CPU seconds of a process.
const cpuOf = (pid) => Number(readFileSync(`/proc/${pid}/schedstat`, 'latin1').split(' ')[0]) / 1e9;

const [reader, listener, scraper] = await Promise.all([connect(url), connect(url), connect(url)]);
let heard = 0;
listener.on('notification', ({ payload }) => { heard += payload.split('"event_key"').length - 1; });
await listener.query('LISTEN bench_live');
await reader.query("SELECT tasker.create_event_consumer('bench', '{*}')");
await reader.query("SELECT tasker.subscribe('{*}', 'bench_live')");
await reader.query("SELECT tasker.schedule_task('bench', '* * * * *', $1)", [JSON.stringify({ name: 'single' })]);
const done = Promise.all([consume(reader), scrape(scraper)]);
console.log('ready');
await once(process.stdin, 'data');
stopping = true;
const begin = performance.now();
const [events, scrapes] = await done;
const behindSeconds = (performance.now() - begin) / 1000;
await reader.query("SELECT tasker.unschedule_task('bench'), tasker.unsubscribe('bench_live'), tasker.drop_event_consumer('bench')");
console.log(JSON.stringify({
	events, heard, scrapes, behindSeconds,
	readerCpu: cpuOf(reader.processID), scraperCpu: cpuOf(scraper.processID), listenerCpu: cpuOf(listener.processID), clientCpu: cpuOf(process.pid),
}));
process.exit(0);
