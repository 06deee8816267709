// pgbench, the load generator that comes with PostgreSQL.

import { execFile, execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { distribution } from './measure.js';

// The program on the PATH, or the one beside the server's others.
function find() {
	for (const folder of (process.env.PATH ?? '').split(':')) {
		if (folder && existsSync(join(folder, 'pgbench'))) {
			return join(folder, 'pgbench');
		}
	}
	try {
		return join(execFileSync('pg_config', ['--bindir'], { encoding: 'utf8' }).trim(), 'pgbench');
	} catch {
		return null;
	}
}

export const pgbench = find();

// Runs a script for some seconds: transactions a second, and with a rate (no
// more than that many a second) also how long they took, from when each was to
// begin: milliseconds.
export async function runPgbench(url, script, { clients, seconds, rate }) {
	const folder = await mkdtemp(join(tmpdir(), 'bench-pgbench-'));
	try {
		await writeFile(join(folder, 'script'), script);
		const options = ['-n', '-M', 'prepared', '-c', String(clients), '-j', String(Math.min(clients, 2)), '-T', String(seconds), '-f', 'script'];
		if (rate) {
			options.push('-R', String(rate), '--log', '--log-prefix=times');
		}
		const output = await new Promise((resolve, reject) => execFile(pgbench, [...options, url], { cwd: folder },
			(error, stdout, stderr) => error ? reject(new Error(`pgbench: ${stderr}`)) : resolve(stdout)));
		const result = { perSecond: Number(/tps = ([0-9.]+)/.exec(output)[1]) };
		if (rate) {
			const times = [];
			for (const name of (await readdir(folder)).filter((file) => file.startsWith('times'))) {
				for (const line of (await readFile(join(folder, name), 'latin1')).split('\n')) {
					// client, number, microseconds since it was to begin, script, time, fraction, lateness
					const fields = line.split(' ');
					if (fields.length > 2) {
						times.push(Number(fields[2]) / 1000);
					}
				}
			}
			result.latency = distribution(times);
		}
		return result;
	} finally {
		await rm(folder, { recursive: true, force: true });
	}
}
