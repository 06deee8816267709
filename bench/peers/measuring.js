// What the drivers of the peers share: connections, the tally of handlers that
// ran, the confirmation in the database, and the pacing of latency samples.
// Every peer is measured by this same code, so that a difference between two
// peers is not a difference between two stopwatches.

import { openLoop } from '../measure.js';
import { fan, shapes, single, smallDiamond } from '../shapes.js';

// This module drives no peer itself; the empty list keeps a loader that imports
// every file of the folder simple.
export default [];

// The settings of a connection from a URL, the libpq form for Unix sockets
// (postgresql:///db?host=/dir&port=N&user=name and postgresql://name@%2Fdir:N/db)
// included, which not every peer
// understands.
export function connectionSettings(url) {
	const parsed = new URL(url);
	const settings = { database: decodeURIComponent(parsed.pathname.slice(1)) };
	const pick = (name, fallback) => parsed.searchParams.get(name) ?? (fallback && decodeURIComponent(fallback));
	settings.host = pick('host', parsed.hostname) || 'localhost';
	settings.port = Number(pick('port', parsed.port) || 5432);
	settings.user = pick('user', parsed.username) || 'postgres';
	const password = pick('password', parsed.password);
	if (password)
		settings.password = password;
	return settings;
}

// The same settings as a URL with a user and a host before the path, for peers
// that insist on them; the query part names the real host.
export function conventionalUrl(settings) {
	const url = new URL(`postgresql://localhost/${encodeURIComponent(settings.database)}`);
	url.username = settings.user;
	if (settings.password)
		url.password = settings.password;
	url.searchParams.set('host', settings.host);
	url.searchParams.set('port', settings.port);
	return url.toString();
}

// A reason why a module cannot be used here, or null.
export async function missingModule(name) {
	try {
		await import(name);
		return null;
	} catch (error) {
		return `${name} cannot be loaded by Node ${process.version}: ${error.message.split('\n')[0]}`;
	}
}

// Opens one connection.
export async function connect(settings) {
	const { default: pg } = await import('pg');
	const client = new pg.Client(settings);
	await client.connect();
	return client;
}

// Opens a pool whose connections all exist already: connecting is not what the
// workloads measure.
export async function warmPool(settings, size) {
	const { default: pg } = await import('pg');
	const pool = new pg.Pool({ ...settings, max: size, idleTimeoutMillis: 0 });
	pool.on('error', () => {});
	pool.on('connect', (client) => client.on('error', () => {}));
	const clients = await Promise.all(Array.from({ length: size }, () => pool.connect()));
	for (const client of clients)
		client.release();
	return pool;
}

export const now = () => performance.now();

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// Rejects when the promise takes longer than a generous bound: a peer that lost
// a job must fail its run, not hang it.
export function within(promise, boundMs, what) {
	let timer;
	const late = new Promise((_, reject) => {
		timer = setTimeout(() => reject(new Error(`${what} took longer than ${boundMs / 1000} s`)), boundMs);
	});
	return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

// Counts handlers that ran; `reached` resolves at the target, `first` holds the
// time of the first.
export function tally(target) {
	let resolveReached;
	const counter = {
		count: 0,
		first: null,
		reached: new Promise((resolve) => { resolveReached = resolve; }),
		ran(jobs = 1) {
			counter.first ??= now();
			counter.count += jobs;
			if (counter.count >= target)
				resolveReached();
		},
	};
	return counter;
}

// Asks the database until it confirms. Called once the last handler has run, so
// that the questions cost the measured work nothing; the pause bounds the error
// to a millisecond or so.
export async function confirmed(client, sql, values = [], { everyMs = 1, boundMs = 600_000 } = {}) {
	const deadline = now() + boundMs;
	for (;;) {
		const { rows } = await client.query({ text: sql, values, rowMode: 'array' });
		if (rows[0][0] === true)
			return;
		if (now() > deadline)
			throw new Error(`not confirmed within ${boundMs / 1000} s: ${sql}`);
		await sleep(everyMs);
	}
}

// The first samples meet cold caches and plans and are thrown away.
const warmUp = 5;

// Latency on an idle system: one job at a time; from the moment the enqueuer
// knows of its commit to the start of the handler. `send(i)` enqueues job i,
// `listen(callback)` makes the peer's handler call callback(i).
export async function idleLatency({ samples, everyMs }, send, listen) {
	const measuredMs = [];
	let arrived;
	listen(() => arrived(now()));
	const begun = now();
	for (let i = 0; i < samples + warmUp; i++) {
		await sleep(begun + i * everyMs - now());
		const start = new Promise((resolve) => { arrived = resolve; });
		await send(i);
		const committed = now();
		const started = await within(start, 60_000, 'the start of a job');
		if (i >= warmUp)
			measuredMs.push(Math.max(0, started - committed));
	}
	return { samples: measuredMs };
}

// An open loop: jobs are due at fixed times whatever the system does, and each
// sample counts from the time a job was due, so that a stall of the enqueuer or
// of the system is paid by all jobs that it delayed. Jobs that have not started
// long after the schedule's end count with their age, which is a lower bound.
export async function openLoopLatency({ ratePerSecond, seconds }, send, listen) {
	const jobs = Math.round(ratePerSecond * seconds);
	const dueAt = new Float64Array(jobs);
	const startedAt = new Float64Array(jobs);
	const done = tally(jobs);
	listen((i) => {
		startedAt[i] ||= now();
		done.ran();
	});
	let raise;
	const failed = new Promise((_, reject) => { raise = reject; });
	const paced = openLoop(jobs, 1000 / ratePerSecond, (i, due) => {
		dueAt[i] = due;
		send(i).catch(raise);
	});
	await Promise.race([paced, failed]);
	await Promise.race([within(done.reached, seconds * 2000 + 5000, 'the open loop').catch(() => {}), failed]);
	const ended = now();
	const samples = Array.from(startedAt, (at, i) => (at || ended) - dueAt[i]);
	const last = startedAt.reduce((latest, at) => Math.max(latest, at), 0);
	return { samples, achieved: Math.min(done.count, jobs) / ((last - dueAt[0]) / 1000) };
}

// One workflow at a time on an idle system: `create()` resolves at the commit
// of its creation, `finished(created)` once the database shows it as done.
export async function idleWorkflows({ samples }, create, finished) {
	const measuredMs = [];
	for (let i = 0; i < samples + 2; i++) {
		const created = await create();
		const committed = now();
		await finished(created);
		if (i >= 2)
			measuredMs.push(now() - committed);
	}
	return { samples: measuredMs };
}

// The steps of a shape given by name or as a list of { name, after }.
export function stepsOf(shape) {
	if (Array.isArray(shape))
		return shape;
	const steps = { ...shapes, smallDiamond, small_diamond: smallDiamond, single }[shape];
	if (!steps)
		throw new Error(`no such shape: ${shape}`);
	return steps;
}

// One step, then width steps side by side, then one that waits for them all.
export { fan };
