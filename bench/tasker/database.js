// A database with tasker in it: what all workloads do there.

import { setTimeout as sleep } from 'node:timers/promises';
import { connect } from '../server.js';

const HANDLER = 'Bench';
const CHUNK = 1000; // tasks that one call creates

// One database with tasker in it, and what was done there.
export class Tasker {
	expected = 0; // steps that must be complete in the end
	#templates = new Set();

	static async open(url, Executor) {
		const tasker = new Tasker();
		tasker.url = url;
		tasker.Executor = Executor;
		tasker.db = await connect(url);
		await tasker.db.query('CREATE EXTENSION tasker');
		await tasker.#running();
		return tasker;
	}

	// Waits for the orchestrator of this database.
	async #running() {
		for (let tries = 0; tries < 1000; tries++) {
			const { rows: [{ status }] } = await this.db.query('SELECT status FROM tasker.stat_orchestrator');
			if (status === 'running') {
				return;
			}
			await sleep(10);
		}
		throw new Error('no orchestrator runs; is tasker in shared_preload_libraries?');
	}

	// Whether there is a function or procedure of this name.
	async has(name) {
		const { rows } = await this.db.query(
			"SELECT FROM pg_proc WHERE pronamespace = 'tasker'::regnamespace AND proname = $1 LIMIT 1", [name]);
		return rows.length > 0;
	}

	// Makes a shape known under a name; once.
	async define(name, steps, settings = {}) {
		if (this.#templates.has(name)) {
			return;
		}
		await this.db.query('SELECT tasker.register_task_template($1)', [JSON.stringify({
			name, version: '1.0.0',
			step_templates: steps.map((step) => ({
				name: step.name, handler_class: HANDLER, depends_on_steps: step.after, ...settings,
			})),
		})]);
		this.#templates.add(name);
	}

	// Creates that many tasks of a template, 1,000 a call, with what else a request may say; seconds.
	async create(name, count, more = {}) {
		const begin = performance.now();
		for (let done = 0; done < count; done += CHUNK) {
			const requests = Array.from({ length: Math.min(CHUNK, count - done) }, (_, i) => ({ name, context: { n: done + i }, ...more }));
			await this.db.query({ name: 'create', text: 'SELECT count(*) FROM tasker.create_tasks($1::jsonb[])', values: [requests] });
		}
		return (performance.now() - begin) / 1000;
	}

	start(settings = {}) {
		return this.Executor.start(this.url, { handlers: [HANDLER], ...settings });
	}

	// Waits until every task has its outcome; looks every so many milliseconds.
	async finalized(pause = 2) {
		for (;;) {
			// The newest is most often the last; only then the others are looked at.
			const { rows: [{ open }] } = await this.db.query({ name: 'newest', text: `
				SELECT state IN ('pending', 'in_progress') AS open FROM tasker.tasks ORDER BY task_id DESC LIMIT 1` });
			if (!open) {
				const { rows: [{ all }] } = await this.db.query({ name: 'all', text: `
					SELECT NOT EXISTS (SELECT FROM tasker.tasks WHERE state IN ('pending', 'in_progress')) AS all` });
				if (all) {
					return;
				}
			}
			if (pause) {
				await sleep(pause);
			}
		}
	}

	// Waits until every step that may run has been found.
	async discovered(count) {
		for (;;) {
			const { rows: [{ waiting }] } = await this.db.query('SELECT count(*)::integer AS waiting FROM tasker.work_queue');
			if (waiting >= count) {
				return;
			}
			await sleep(100);
		}
	}

	// Drains that many of the steps that wait, and leaves the others.
	async drainSome(count) {
		const begin = performance.now();
		const executor = await this.start();
		await executor.until(count);
		const seconds = (performance.now() - begin) / 1000;
		const units = executor.completed;
		await executor.stop();
		this.expected += executor.completed;
		return { units, seconds };
	}

	// Every step that was reported is complete, exactly once, and every
	// invariant holds: speed that loses or repeats a step does not count.
	async verify() {
		const { rows: [counts] } = await this.db.query(`
			SELECT count(*)::integer AS transitions, count(DISTINCT workflow_step_id)::integer AS steps
			FROM tasker.workflow_step_transition_log WHERE to_state = 'complete'`);
		if (counts.transitions !== this.expected || counts.steps !== this.expected) {
			throw new Error(`${this.expected} steps were completed, the log has ${counts.transitions} completions of ${counts.steps} steps`);
		}
		// A minute later autovacuum would have done it: plans follow statistics.
		await this.db.query('ANALYZE');
		const { rows: problems } = await this.db.query('SELECT * FROM tasker.check() LIMIT 5');
		if (problems.length) {
			throw new Error(`tasker.check(): ${JSON.stringify(problems)}`);
		}
	}

	async close() {
		await this.db.end();
	}
}
