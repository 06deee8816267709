// What a run costs, read before and after it: WAL, transactions, row versions
// and CPU time; and the clock and the percentiles of what it tells itself.

import { readFileSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';

const TICKS_PER_SECOND = 100; // of /proc, the same on every Linux

// CPU seconds of one process, and of its children that have ended.
function cpuOf(stat) {
	// The name in parentheses may contain blanks; the fields follow it.
	const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
	const [user, system, childUser, childSystem] = fields.slice(11, 15).map(Number);
	return { parent: Number(fields[1]), own: (user + system) / TICKS_PER_SECOND, ended: (childUser + childSystem) / TICKS_PER_SECOND };
}

async function statOf(pid) {
	try {
		return cpuOf(await readFile(`/proc/${pid}/stat`, 'latin1'));
	} catch {
		return null; // it has just ended
	}
}

// CPU seconds that the server has used since it started: those of the
// postmaster, of its children that are alive and of those that have ended.
async function serverCpu(postmaster) {
	const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name));
	const stats = await Promise.all(pids.map(statOf));
	let seconds = 0;
	for (const [i, stat] of stats.entries()) {
		if (stat && Number(pids[i]) === postmaster) {
			seconds += stat.own + stat.ended;
		} else if (stat && stat.parent === postmaster) {
			seconds += stat.own;
		}
	}
	return seconds;
}

async function postmasterOf(db) {
	const { rows: [{ pid }] } = await db.query('SELECT pg_backend_pid() AS pid');
	const postmaster = (await statOf(pid))?.parent;
	if (!postmaster) {
		throw new Error('the server is not on this machine: its CPU time cannot be measured');
	}
	return postmaster;
}

// A function that tells the CPU seconds the server of a connection has used.
export async function serverCpuClock(db) {
	const postmaster = await postmasterOf(db);
	return () => serverCpu(postmaster);
}

// The processes that the server of a connection consists of now.
export async function serverProcesses(db) {
	const postmaster = await postmasterOf(db);
	const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name)).map(Number);
	const stats = await Promise.all(pids.map(statOf));
	return pids.filter((pid, i) => pid === postmaster || stats[i]?.parent === postmaster);
}

// CPU seconds of this process and of the children it has waited for.
function clientCpu() {
	return process.cpuUsage().user / 1e6 + process.cpuUsage().system / 1e6 + cpuOf(readFileSync('/proc/self/stat', 'latin1')).ended;
}

// CPU seconds that anybody has used on this machine, and seconds that there were.
async function machineCpu() {
	const [, user, nice, system, idle, iowait, irq, softirq, steal] = (await readFile('/proc/stat', 'latin1'))
		.split('\n', 1)[0].split(/\s+/).map(Number);
	const busy = user + nice + system + irq + softirq;
	return { busy: busy / TICKS_PER_SECOND, all: (busy + idle + iowait + steal) / TICKS_PER_SECOND };
}

// The counters of one database. Whoever reads them uses a connection to
// another one, so that it does not count itself. Transactions that wrote are counted by the
// server's transaction ids: exact at once, while the statistics of a backend
// follow when it has been idle or has ended.
export class Meter {
	static async start(admin, database) {
		const meter = new Meter();
		meter.admin = admin;
		meter.database = database;
		meter.serverCpu = await serverCpuClock(admin);
		meter.before = await meter.read();
		meter.statisticsBefore = await meter.readStatistics();
		return meter;
	}

	async read() {
		const { rows: [row] } = await this.admin.query(`
			SELECT pg_current_wal_insert_lsn() - '0/0' AS wal, pg_snapshot_xmax(pg_current_snapshot())::text AS xid`);
		return {
			wal: Number(row.wal), xid: Number(row.xid), server: await this.serverCpu(),
			client: clientCpu(), machine: await machineCpu(), clock: performance.now(),
		};
	}

	async readStatistics() {
		const { rows: [row] } = await this.admin.query(`
			SELECT xact_commit::float8 AS commits, tup_updated::float8 AS updated, tup_deleted::float8 AS deleted,
				tup_inserted::float8 AS inserted
			FROM pg_stat_database WHERE datname = $1`, [this.database]);
		return row;
	}

	// To be called when the work is done, before anything is checked.
	async stop() {
		const after = await this.read();
		const { before } = this;
		const server = after.server - before.server;
		const client = after.client - before.client;
		const machine = after.machine.all - before.machine.all;
		this.cost = {
			seconds: (after.clock - before.clock) / 1000,
			walBytes: after.wal - before.wal,
			// Without the one that the counting itself may have taken: it reads only.
			writingTransactions: after.xid - before.xid,
			serverCpuSeconds: server,
			clientCpuSeconds: client,
			// The share of the machine that strangers had meanwhile.
			foreignCpu: machine > 0 ? Math.max(0, (after.machine.busy - before.machine.busy - server - client) / machine) : 0,
		};
	}

	// To be called when the system's connections are closed: then their
	// statistics are there.
	async finish() {
		let row = await this.readStatistics();
		for (let quiet = 0, tries = 0; quiet < 3 && tries < 40; tries++) {
			await sleep(50);
			const again = await this.readStatistics();
			quiet = again.commits === row.commits ? quiet + 1 : 0;
			row = again;
		}
		const { statisticsBefore: before } = this;
		return {
			...this.cost,
			commits: row.commits - before.commits,
			rowsInserted: row.inserted - before.inserted,
			deadTuples: row.updated + row.deleted - before.updated - before.deleted,
		};
	}
}

// The value below or at which that share of the values lies.
export function percentile(sorted, share) {
	return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)];
}

// p50, p95, p99 and so on of some milliseconds.
export function distribution(samples) {
	const sorted = Float64Array.from(samples).sort();
	return {
		count: sorted.length,
		p50: percentile(sorted, 0.5), p95: percentile(sorted, 0.95), p99: percentile(sorted, 0.99),
		min: sorted[0], max: sorted[sorted.length - 1],
	};
}

export function median(values) {
	const sorted = [...values].sort((a, b) => a - b);
	const middle = sorted.length >> 1;
	return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

// Calls send(i, due) for i from 0 to count - 1 at its time, one every everyMs,
// without waiting for what it started; due is when it should have been sent, on
// the clock of performance.now(). Late calls are made up for at once: who
// measures from due does not omit what the lateness cost.
export async function openLoop(count, everyMs, send) {
	const begin = performance.now() + everyMs;
	for (let i = 0; i < count;) {
		const due = begin + i * everyMs;
		const wait = due - performance.now();
		if (wait > 1.5) {
			await sleep(wait - 1);
		} else if (wait > 0) {
			await new Promise(setImmediate);
		} else {
			send(i, due);
			i++;
		}
	}
}
