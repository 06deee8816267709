// PgQ 3.5 (Debian package postgresql-15-pgq3), a queue of events without state
// per job and without workflows: a ceiling for queues, no substitute.
//
// fast: one consumer; the ticker runs every 20 ms with ticker_max_lag 0 (the
//       defaults are a ticker each second and a lag of 3 s, for a latency of
//       1.7 s). The consumer asks for a batch every 5 ms when there was none.
//
// The ticker is a loop here instead of the daemon pgqd, whose shortest period is
// a second. Events are enqueued in bulk by insert_event in one statement,
// 1,000 a transaction, one by one by insert_event. A finished batch is the
// consumer's advanced tick, which finish_batch commits.

import {
	connect, connectionSettings, idleLatency, now, openLoopLatency, sleep, tally, warmPool, within,
} from './measuring.js';

const queue = 'noop';
const consumer = 'bench';
const bulkSize = 1000;
const tickEveryMs = 20;
const askEveryMs = 5;

// Why this peer cannot run on a server, or null.
async function missingExtension(admin) {
	const { rowCount } = await admin.query("SELECT FROM pg_available_extensions WHERE name = 'pgq'");
	return rowCount ? null : 'the extension pgq is not installed (Debian: postgresql-NN-pgq3)';
}

// Calls work() again and again until stopped; work gives the pause to the next
// call in ms. stop() resolves when the last call has ended.
function repeatedly(work) {
	let stopped = false;
	const ended = (async () => {
		while (!stopped) {
			const pauseMs = await work();
			if (pauseMs && !stopped)
				await sleep(pauseMs);
		}
	})();
	// A failure is reported by stop(), or by whoever watches `ended`.
	ended.catch(() => {});
	return {
		ended,
		stop() {
			stopped = true;
			return ended;
		},
	};
}

// Opens the peer in an empty database.
async function open(url) {
	const settings = connectionSettings(url);
	const [client, ticker, reader] = await Promise.all([settings, settings, settings].map(connect));
	const enqueuePool = await warmPool(settings, 8);
	await client.query('CREATE EXTENSION pgq');
	await client.query('SELECT pgq.create_queue($1)', [queue]);
	await client.query('SELECT pgq.register_consumer($1, $2)', [queue, consumer]);
	await client.query("SELECT pgq.set_queue_config($1, 'ticker_max_lag', '0')", [queue]);
	let onStart = () => {};
	const listen = (callback) => { onStart = callback; };

	const tick = (connection) => connection.query({ name: 'tick', text: 'SELECT pgq.ticker($1)', values: [queue] });
	const send = (i) => enqueuePool.query({
		name: 'send', text: "SELECT pgq.insert_event($1, 'noop', $2)", values: [queue, String(i)],
	});

	// Takes a batch, if there is one, runs its events and finishes it.
	async function consume() {
		const { rows: [{ batch }] } = await reader.query({
			name: 'next', text: 'SELECT pgq.next_batch($1, $2) AS batch', values: [queue, consumer],
		});
		if (batch === null)
			return askEveryMs;
		const { rows } = await reader.query({
			name: 'get', text: 'SELECT ev_id, ev_data FROM pgq.get_batch_events($1)', values: [batch],
		});
		for (const event of rows)
			onStart(Number(event.ev_data));
		await reader.query({ name: 'finish', text: 'SELECT pgq.finish_batch($1)', values: [batch] });
		onFinished(rows.length);
		return 0;
	}
	let onFinished = () => {};

	// Runs the ticker and the consumer while work() lasts.
	async function withWorker(work) {
		const loops = [
			repeatedly(async () => {
				await tick(ticker);
				return tickEveryMs;
			}),
			repeatedly(consume),
		];
		try {
			return await Promise.race([work(), ...loops.map((loop) => loop.ended)]);
		} finally {
			await Promise.all(loops.map((loop) => loop.stop()));
		}
	}

	// Enqueues that many events in bulk, ticking now and then as a running ticker
	// would, and gives the seconds it took.
	async function enqueue(jobs) {
		const begun = now();
		for (let from = 0; from < jobs; from += bulkSize) {
			await client.query("SELECT count(pgq.insert_event($1, 'noop', i::text)) FROM generate_series($2::int, $3) i",
				[queue, from, Math.min(from + bulkSize, jobs) - 1]);
			if (from % (10 * bulkSize) === 0)
				await tick(client);
		}
		return (now() - begun) / 1000;
	}

	// Runs a worker until that many events are in finished batches.
	async function drainJobs(jobs) {
		const done = tally(jobs);
		onFinished = (events) => done.ran(events);
		const begun = now();
		const seconds = await withWorker(async () => {
			await within(done.reached, 600_000, 'the drain');
			return (now() - begun) / 1000;
		});
		return { units: done.count, seconds };
	}

	return {
		async drain({ jobs }) {
			const enqueueSeconds = await enqueue(jobs);
			const { seconds } = await drainJobs(jobs);
			return { units: jobs, seconds, enqueueSeconds };
		},
		latency: (options) => withWorker(() => idleLatency(options, send, listen)),
		openLoop: (options) => withWorker(() => openLoopLatency(options, send, listen)),
		// Batches do not end where the drained number does: the events of the batch
		// that reached it count, too.
		async backlog({ waiting, drain }) {
			await enqueue(drain);
			const empty = await drainJobs(drain);
			await enqueue(waiting);
			const { units, seconds } = await drainJobs(drain);
			return { units, seconds, emptyUnits: empty.units, emptySeconds: empty.seconds };
		},
		async close() {
			await Promise.all([client.end(), ticker.end(), reader.end(), enqueuePool.end()]);
		},
	};
}

export default [{
	name: 'pgq',
	variant: 'fast',
	kind: 'queue',
	available: missingExtension,
	open,
}];
