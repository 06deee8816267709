// Workloads that ask what only tasker promises: flat cost behind an old
// snapshot, no burden on the application's commits, idle executors that cost
// nothing, retries on time.

import { setTimeout as sleep } from 'node:timers/promises';
import { connect } from '../server.js';
import { openLoop, serverCpuClock } from '../measure.js';
import { runPgbench } from '../pgbench.js';
import { single } from '../shapes.js';
import { latency } from './workloads.js';

// Another session holds a snapshot, as a backup or a forgotten transaction
// does. The steps that wait are worked off meanwhile, in one burst a second.
// What counts is the last tenth of the bursts, against a queue nearly empty and
// no snapshot.
export async function snapshot(tasker, { waiting, heldSeconds }) {
	await tasker.define('single', single);
	const burst = Math.max(500, Math.floor(waiting / (heldSeconds * 2)));
	await tasker.create('single', burst * 4);
	const empty = await tasker.drainSome(burst * 4);
	await tasker.create('single', waiting);
	await tasker.discovered(waiting);

	const holder = await connect(tasker.url);
	await holder.query('BEGIN ISOLATION LEVEL REPEATABLE READ');
	await holder.query('SELECT count(*) FROM tasker.work_queue LIMIT 1');
	const begin = performance.now();
	const series = [];
	let left = waiting;
	while (performance.now() - begin < heldSeconds * 1000) {
		const at = (performance.now() - begin) / 1000;
		const { units, seconds } = await tasker.drainSome(burst);
		series.push({ at, units, seconds });
		left -= units;
		if (left < burst * 2) {
			await tasker.create('single', burst);
			left += burst;
		}
		await sleep(Math.max(0, 1000 - ((performance.now() - begin) / 1000 - at) * 1000));
	}
	await holder.query('COMMIT');
	await holder.end();
	const last = series.slice(-Math.max(1, Math.ceil(series.length / 10)));
	return {
		units: last.reduce((sum, { units }) => sum + units, 0), seconds: last.reduce((sum, { seconds }) => sum + seconds, 0),
		emptyUnits: empty.units, emptySeconds: empty.seconds, heldSeconds, series,
	};
}

// One transaction of an application: it changes an account and notes it.
const APPLICATION = `\\set account random(1, 100000)
BEGIN;
UPDATE accounts SET balance = balance + 1 WHERE id = :account;
INSERT INTO history (account) VALUES (:account);
END;
`;
const WITH_TASK = APPLICATION.replace('END;', "SELECT tasker.create_task('single');\nEND;");

const STARTS = 2000; // tasks a second that the other connection starts
const RATE = 1000; // commits a second that leave the machine room

// An application commits: as fast as it can and, to see single commits, at a
// rate that leaves the machine room. Alone; beside another connection that
// starts tasks; and with the start of a task in each transaction. Executors
// run them all.
export async function commits(tasker, { clients, seconds }) {
	await tasker.define('single', single);
	await tasker.db.query(`
		CREATE TABLE accounts (id integer PRIMARY KEY, balance integer NOT NULL DEFAULT 0) WITH (fillfactor = 50);
		CREATE TABLE history (account integer, at timestamptz DEFAULT now());
		INSERT INTO accounts SELECT generate_series(1, 100000)`);
	await tasker.db.query('VACUUM ANALYZE accounts');
	const run = (script, rate) => runPgbench(tasker.url, script, { clients, seconds, rate });
	const alone = await run(APPLICATION);
	const aloneAtRate = await run(APPLICATION, RATE);
	const executor = await tasker.start();
	const besideStarts = await besideStarter(tasker, () => run(APPLICATION));
	const besideStartsAtRate = await besideStarter(tasker, () => run(APPLICATION, RATE));
	const withTask = await run(WITH_TASK);
	const withTaskAtRate = await run(WITH_TASK, RATE);

	const { rows: [{ tasks }] } = await tasker.db.query('SELECT count(*)::integer AS tasks FROM tasker.tasks');
	await executor.until(tasks);
	await tasker.finalized();
	await executor.stop();
	tasker.expected += executor.completed;
	return { units: tasks, alone, aloneAtRate, besideStarts, besideStartsAtRate, withTask, withTaskAtRate };
}

// Runs something while another connection starts tasks, 20 at a time; tells how
// many it has started a second.
async function besideStarter(tasker, run) {
	const requests = Array.from({ length: 20 }, () => ({ name: 'single' }));
	const starter = await connect(tasker.url);
	const begin = performance.now();
	let started = 0;
	let stop = false;
	const starts = (async () => {
		while (!stop) {
			await sleep(Math.max(0, begin + started / STARTS * 1000 - performance.now()));
			await starter.query({
				name: 'create', text: 'SELECT count(*) FROM tasker.create_tasks($1::jsonb[])', values: [requests],
			});
			started += requests.length;
		}
		return started / ((performance.now() - begin) / 1000);
	})();
	const outcome = await run();
	stop = true;
	const startsPerSecond = await starts;
	await starter.end();
	return { ...outcome, startsPerSecond };
}

// The latency of single tasks and what each costs the server, with nobody else
// there, with n executors that only listen, and with n sessions that wait in
// tasker.await_steps, where it exists.
export async function idleExecutors(tasker, { n, samples }) {
	const { rows: [{ room }] } = await tasker.db.query(
		"SELECT current_setting('max_connections')::integer - (SELECT count(*) FROM pg_stat_activity)::integer - 20 AS room");
	const count = Math.min(n, room);
	const cpu = await serverCpuClock(tasker.db);
	const measure = async () => {
		const before = await cpu();
		const { samples: times } = await latency(tasker, { samples, everyMs: 20 });
		return { samples: times, serverCpuMicroseconds: (await cpu() - before) / samples * 1e6 };
	};
	const result = { n: count };
	const note = (name, { samples: times, serverCpuMicroseconds }) => {
		result[name] = times;
		result[`${name}CpuMicroseconds`] = serverCpuMicroseconds;
	};
	note('none', await measure());

	const idle = await inChunks(count, async () => {
		const session = await connect(tasker.url);
		await session.query('BEGIN');
		const { rows: [{ executor_id: id, channel }] } = await session.query(
			"SELECT * FROM tasker.register_executor('idle', '{Idle}', 10)");
		await session.query(`LISTEN "${channel}"`);
		await session.query('COMMIT');
		return { session, id };
	});
	await sleep(1000);
	note('listening', await measure());

	if (await tasker.has('await_steps')) {
		await inChunks(count, async (i) => {
			const { session, id } = idle[i];
			await session.query('UNLISTEN *');
			// Ends with the session.
			session.query(`CALL tasker.await_steps(${id})`).catch(() => {});
		});
		await sleep(1000);
		note('awaiting', await measure());
	}
	// A session that waits in a call would not read our farewell.
	await tasker.db.query(`
		SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()`);
	return result;
}

// Calls make(i) for i from 0 to count - 1, fifty at a time.
async function inChunks(count, make) {
	const made = [];
	for (let i = 0; i < count; i += 50) {
		made.push(...await Promise.all(Array.from({ length: Math.min(50, count - i) }, (_, k) => make(i + k))));
	}
	return made;
}

// One step in five fails at its first attempt; each is due again a second
// later, without jitter. How late is the second attempt? By the log: from the
// end of the backoff to the claim; and by the client: to the handler's start.
export async function retries(tasker, { tasks, everyMs }) {
	const BACKOFF = 1000;
	await tasker.define('flaky', single, { backoff_base_seconds: BACKOFF / 1000, backoff_jitter: 0, default_retry_limit: 5 });
	const wall = () => performance.timeOrigin + performance.now();
	const startedAgain = new Map(); // by step
	let failures = 0;
	const executor = await tasker.start({
		onStart: (step) => {
			if (step.attempt > 1) {
				startedAgain.set(step.workflow_step_id, wall());
			}
		},
		fail: (step) => {
			const fails = step.attempt === 1 && step.inputs.n % 5 === 0;
			failures += fails;
			return fails;
		},
	});
	const begin = performance.now();
	await openLoop(tasks, everyMs, (n) => {
		tasker.db.query({ name: 'flaky', text: "SELECT tasker.create_task('flaky', $1)", values: [{ n }] })
			.catch((error) => executor.fail(error));
	});
	await executor.until(tasks);
	await tasker.finalized();
	const seconds = (performance.now() - begin) / 1000;
	await executor.stop();
	tasker.expected += executor.completed;

	const { rows } = await tasker.db.query(`
		SELECT failed.workflow_step_id AS step,
			extract(epoch FROM failed.created_at)::float8 * 1000 + $1 AS due,
			extract(epoch FROM again.created_at)::float8 * 1000 AS claimed
		FROM tasker.workflow_step_transition_log failed
		JOIN tasker.workflow_step_transition_log again ON again.workflow_step_id = failed.workflow_step_id
			AND again.to_state = 'in_progress' AND again.sort_key > failed.sort_key
		WHERE failed.to_state = 'error'`, [BACKOFF]);
	if (rows.length !== failures) {
		throw new Error(`${failures} steps failed, ${rows.length} were claimed again`);
	}
	const late = rows.map((row) => row.claimed - row.due);
	if (late.some((milliseconds) => milliseconds < -0.001)) {
		throw new Error(`a retry came ${-Math.min(...late)} ms early`);
	}
	return {
		units: tasks, seconds, failures, samples: late,
		handlerLate: rows.map((row) => startedAgain.get(Number(row.step)) - row.due),
	};
}
