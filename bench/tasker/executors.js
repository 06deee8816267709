// Executors of tasker as a user would write them with pg. All have the same
// surface: completed counts the steps whose completion is committed,
// until(count) waits for that many, onStart(step, now) is called where a
// handler would begin, stop() gives back what was not begun.

import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { connect } from '../server.js';

class Counter {
	completed = 0;
	#waiting = [];

	add(count) {
		this.completed += count;
		if (this.#waiting.length) {
			this.#waiting = this.#waiting.filter(({ goal, resolve }) => this.completed < goal || resolve());
		}
	}

	until(goal) {
		return new Promise((resolve, reject) => {
			if (this.failure) {
				reject(this.failure);
			} else if (this.completed >= goal) {
				resolve();
			} else {
				this.#waiting.push({ goal, resolve, reject });
			}
		});
	}

	fail(error) {
		this.failure ??= error;
		for (const { reject } of this.#waiting.splice(0)) {
			reject(this.failure);
		}
	}
}

// The server pushes: each connection listens on its own channel and completes
// what has arrived since its last completion was sent, all in one call. So
// batches are small when there is little to do and large under load.
export class PushExecutor extends Counter {
	static async start(url, { handlers, capacity = 1000, connections = 2, onStart, fail }) {
		const executor = new PushExecutor();
		executor.onStart = onStart;
		executor.shouldFail = fail;
		executor.owns = await Promise.all(Array.from({ length: connections }, async () =>
			executor.#register(await connect(url), handlers, capacity)));
		return executor;
	}

	async #register(session, handlers, capacity) {
		const own = { session, ids: [], claims: [], failedIds: [], failedClaims: [], busy: false };
		session.on('notification', ({ payload }) => this.#take(own, JSON.parse(payload).steps));
		// One transaction: as soon as others can see us, we are listening.
		await session.query('BEGIN');
		const { rows: [{ executor_id: id, channel }] } = await session.query(
			'SELECT * FROM tasker.register_executor($1, $2, $3)', ['bench', handlers, capacity]);
		own.id = id;
		await session.query(`LISTEN "${channel}"`);
		await session.query('COMMIT');
		return own;
	}

	#take(own, steps) {
		const now = performance.now();
		for (const step of steps) {
			if (step.fetch) {
				this.#fetch(own, step);
				continue;
			}
			this.onStart?.(step, now);
			this.#finish(own, step);
		}
		this.#report(own);
	}

	// Inputs too large for a message are asked for.
	async #fetch(own, { workflow_step_id: wanted, claim }) {
		try {
			const { rows } = await own.session.query(
				'SELECT * FROM tasker.my_steps($1) WHERE workflow_step_id = $2 AND claim = $3', [own.id, wanted, claim]);
			for (const step of rows) {
				this.onStart?.(step, performance.now());
				this.#finish(own, step);
			}
			this.#report(own);
		} catch (error) {
			this.fail(error);
		}
	}

	// The handler itself does nothing; this is its end.
	#finish(own, step) {
		if (this.shouldFail?.(step)) {
			own.failedIds.push(step.workflow_step_id);
			own.failedClaims.push(step.claim);
		} else {
			own.ids.push(step.workflow_step_id);
			own.claims.push(step.claim);
		}
	}

	#report(own) {
		if (!own.busy) {
			own.busy = true;
			own.reporting = this.#reportAll(own).catch((error) => this.fail(error));
		}
	}

	async #reportAll(own) {
		while (!this.stopped && (own.ids.length || own.failedIds.length)) {
			const { ids, claims, failedIds, failedClaims } = own;
			own.ids = [];
			own.claims = [];
			own.failedIds = [];
			own.failedClaims = [];
			if (ids.length) {
				await this.#complete(own, ids, claims);
				this.add(ids.length);
			}
			if (failedIds.length) {
				await own.session.query({
					name: 'fail', text: 'SELECT tasker.fail_steps($1, $2, $3, executor_id => $4)',
					values: [failedIds, failedClaims, failedIds.map(() => 'told to fail'), own.id],
				});
			}
		}
		own.busy = false;
	}

	// reportedAt is taken as soon as the answer is read. The message about the
	// next step may come in the same breath, and even before the answer: then
	// its handler starts before the completion is known.
	#complete(own, ids, claims) {
		this.reportedAt = Infinity;
		return new Promise((resolve, reject) => own.session.query({
			name: 'complete', text: 'SELECT tasker.complete_steps($1, $2, NULL, $3)', values: [ids, claims, own.id],
		}, (error) => {
			this.reportedAt = performance.now();
			error ? reject(error) : resolve();
		}));
	}

	async stop() {
		this.stopped = true;
		await Promise.all(this.owns.map(async (own) => {
			await own.reporting;
			await own.session.query('SELECT tasker.unregister_executor($1, true)', [own.id]);
			await own.session.end();
		}));
	}
}

// The client pulls: each connection claims up to 500 steps and completes them
// in one call, then claims again. One detached executor, as behind a pooler.
export class PullExecutor extends Counter {
	static async start(url, { handlers, connections = 2, batch = 500, onStart }) {
		const executor = new PullExecutor();
		executor.onStart = onStart;
		executor.batch = batch;
		executor.sessions = await Promise.all(Array.from({ length: connections }, () => connect(url)));
		const { rows: [{ executor_id: id }] } = await executor.sessions[0].query(
			"SELECT executor_id FROM tasker.register_executor('bench', $1, 0, true, '1 hour')", [handlers]);
		executor.id = id;
		executor.loops = executor.sessions.map((session) => executor.#loop(session).catch((error) => executor.fail(error)));
		return executor;
	}

	async #loop(session) {
		while (!this.stopped) {
			const { rows } = await session.query({
				name: 'claim', text: 'SELECT * FROM tasker.claim_steps($1, $2)', values: [this.id, this.batch],
			});
			if (!rows.length) {
				await sleep(2);
				continue;
			}
			const now = performance.now();
			for (const step of rows) {
				this.onStart?.(step, now);
			}
			await session.query({
				name: 'complete', text: 'SELECT tasker.complete_steps($1, $2, NULL, $3)',
				values: [rows.map((row) => row.workflow_step_id), rows.map((row) => row.claim), this.id],
			});
			this.add(rows.length);
		}
	}

	async stop() {
		this.stopped = true;
		await Promise.all(this.loops);
		await this.sessions[0].query('SELECT tasker.unregister_executor($1, true)', [this.id]);
		await Promise.all(this.sessions.map((session) => session.end()));
	}
}

// The client waits in a call: each connection claims up to 500 steps when there
// are some, completes them in one call and waits again. No LISTEN, no polling.
export class AwaitExecutor extends Counter {
	static async start(url, { handlers, connections = 2, batch = 500, onStart }) {
		const executor = new AwaitExecutor();
		executor.onStart = onStart;
		executor.batch = batch;
		executor.url = url;
		executor.owns = await Promise.all(Array.from({ length: connections }, async () => {
			const session = await connect(url);
			const { rows: [{ executor_id: id }] } = await session.query(
				"SELECT executor_id FROM tasker.register_executor('bench', $1, 0)", [handlers]);
			return { session, id };
		}));
		executor.loops = executor.owns.map((own) => executor.#loop(own).catch((error) => {
			if (!executor.stopped) {
				executor.fail(error);
			}
		}));
		return executor;
	}

	async #loop({ session, id }) {
		while (!this.stopped) {
			const { rows: [{ steps }] } = await session.query({
				name: 'await', text: 'CALL tasker.await_steps($1, $2)', values: [id, this.batch],
			});
			const now = performance.now();
			for (const step of steps) {
				this.onStart?.(step, now);
			}
			await this.#complete(session, id, steps);
			this.add(steps.length);
		}
	}

	#complete(session, id, steps) {
		return new Promise((resolve, reject) => session.query({
			name: 'complete', text: 'SELECT tasker.complete_steps($1, $2, NULL, $3)',
			values: [steps.map((step) => step.workflow_step_id), steps.map((step) => step.claim), id],
		}, (error) => {
			this.reportedAt = performance.now();
			error ? reject(error) : resolve();
		}));
	}

	// Who waits is told from outside: its executor has ended.
	async stop() {
		this.stopped = true;
		const other = await connect(this.url);
		for (const { id } of this.owns) {
			await other.query('SELECT tasker.unregister_executor($1, true)', [id]);
		}
		await other.end();
		await Promise.all(this.loops);
		await Promise.all(this.owns.map(({ session }) => session.end()));
	}
}

// executor.c, compiled: the limit of a client that does next to nothing.
export class LibpqExecutor extends Counter {
	static async start(url, { handlers, capacity = 1000, connections = 2 }) {
		const executor = new LibpqExecutor();
		const program = process.env.TASKER_BENCH_EXECUTOR;
		executor.children = Array.from({ length: connections }, () =>
			spawn(program, [url, handlers[0], String(capacity)], { stdio: ['pipe', 'pipe', 'inherit'] }));
		executor.ended = executor.children.map((child) => new Promise((resolve) => child.on('close', (status) => {
			if (status !== 0 && !executor.stopped) {
				executor.fail(new Error(`executor.c ended with status ${status}`));
			}
			resolve();
		})));
		await Promise.all(executor.children.map((child) => new Promise((resolve, reject) => {
			child.on('error', reject);
			child.on('exit', () => reject(new Error('executor.c did not start')));
			createInterface({ input: child.stdout }).on('line', (line) =>
				line === 'ready' ? resolve() : executor.add(Number(line)));
		})));
		return executor;
	}

	async stop() {
		this.stopped = true;
		for (const child of this.children) {
			child.stdin.end();
		}
		await Promise.all(this.ended);
	}
}
