// The server under measurement: where it is, its databases, its write-ahead log.

import pg from 'pg';
import { setTimeout as sleep } from 'node:timers/promises';

// The connection string of a database on the server that PGHOST, PGPORT and
// PGUSER name; a folder in PGHOST means a socket.
export function urlOf(database) {
	const host = encodeURIComponent(process.env.PGHOST ?? '/var/run/postgresql');
	const user = encodeURIComponent(process.env.PGUSER ?? 'postgres');
	const password = process.env.PGPASSWORD ? ':' + encodeURIComponent(process.env.PGPASSWORD) : '';
	return `postgresql://${user}${password}@${host}:${process.env.PGPORT ?? 5432}/${database}`;
}

export async function connect(url) {
	const client = new pg.Client({ connectionString: url });
	// A server that ends a session says so here, too; the query that waits hears it.
	client.on('error', () => {});
	await client.connect();
	return client;
}

// The connection that makes and drops databases and reads counters.
export function connectAdmin() {
	return connect(urlOf('postgres'));
}

// Makes a database of this name, empty, and gives its connection string.
export async function makeDatabase(admin, name) {
	await dropDatabase(admin, name);
	await admin.query(`CREATE DATABASE ${name}`);
	return urlOf(name);
}

// Drops it; sessions that a run left behind are ended.
export async function dropDatabase(admin, name) {
	for (let tries = 0; ; tries++) {
		try {
			return await admin.query(`DROP DATABASE IF EXISTS ${name} WITH (FORCE)`);
		} catch (error) {
			// A background worker may come back between the end and the drop.
			if (tries >= 20) {
				throw error;
			}
			await sleep(100);
		}
	}
}

// Writing into segments of the log that were never used is ten times slower
// than into recycled ones. Fills what may be kept (min_wal_size), so that all
// systems find recycled segments, not only those that are measured late.
export async function recycleLog(admin, say) {
	const counted = `
		SELECT s.setting::bigint AS bytes,
			(SELECT setting::bigint * 1024 * 1024 FROM pg_settings WHERE name = 'min_wal_size') AS wanted,
			(SELECT count(*) FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$' AND name > pg_walfile_name(pg_current_wal_insert_lsn())) AS ahead
		FROM pg_settings s WHERE s.name = 'wal_segment_size'`;
	let { rows: [{ bytes, wanted, ahead }] } = await admin.query(counted);
	if (bytes * ahead >= wanted * 0.7) {
		return;
	}
	say(`fills ${Math.round(wanted / 2 ** 30 * 10) / 10} GB of the write-ahead log, so that its segments are recycled`);
	for (let written = 0; written < wanted * 1.1; written += 2 ** 28) {
		await admin.query("SELECT count(pg_logical_emit_message(false, 'bench', repeat('x', 1024 * 1024))) FROM generate_series(1, 256)");
	}
	await admin.query('CHECKPOINT');
	({ rows: [{ bytes, wanted, ahead }] } = await admin.query(counted));
	say(`${ahead} recycled segments lie ahead`);
}

// What to say about the machine and the server in a report.
export async function describe(admin) {
	const { rows } = await admin.query(`
		SELECT name, current_setting(name) AS value FROM pg_settings
		WHERE name IN ('server_version', 'shared_buffers', 'max_wal_size', 'min_wal_size', 'checkpoint_timeout',
			'synchronous_commit', 'fsync', 'autovacuum', 'jit', 'max_connections', 'shared_preload_libraries', 'full_page_writes')
		ORDER BY name`);
	return Object.fromEntries(rows.map(({ name, value }) => [name, value]));
}
