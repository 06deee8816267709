// What PostgreSQL itself can do on this machine: single commits, and the least
// that a durable queue must write for a job: insert, claim, complete.

import { connect } from './server.js';
import { pgbench, runPgbench } from './pgbench.js';

const COMMIT = "INSERT INTO commits (payload) VALUES ('x');\n";

// Each client works on its own job: nobody waits for anybody's lock.
const INSERT = "INSERT INTO jobs (payload) VALUES ('x') RETURNING id AS job \\gset\n";
const CLAIM = 'UPDATE jobs SET state = 1 WHERE id = :job;\n';
const COMPLETE = 'UPDATE jobs SET state = 2 WHERE id = :job;\n';

const scripts = {
	'one-row commits': COMMIT,
	'insert, claim, complete: 3 transactions': INSERT + CLAIM + COMPLETE,
	'the same 3 writes in 1 transaction': 'BEGIN;\n' + INSERT + CLAIM + COMPLETE + 'END;\n',
};

async function floor(url, { clients, seconds }) {
	const rates = [];
	for (const [what, script] of Object.entries(scripts)) {
		for (const count of clients) {
			const { perSecond } = await runPgbench(url, script, { clients: count, seconds });
			rates.push({ what, clients: count, perSecond });
		}
	}
	return { rates };
}

async function open(url) {
	const db = await connect(url);
	await db.query(`
		CREATE TABLE commits (id bigint GENERATED ALWAYS AS IDENTITY, payload text);
		CREATE TABLE jobs (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, state integer NOT NULL DEFAULT 0, payload text)
			WITH (fillfactor = 50)`);
	return { floor: (sizes) => floor(url, sizes), close: () => db.end() };
}

export default [{
	name: 'floor', variant: '', kind: 'floor',
	available: async () => pgbench ? null : 'pgbench is not installed',
	open,
}];
