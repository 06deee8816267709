// One run of one workload on one system, in a process of its own, so that no
// system lives with the garbage of another and a hanging one can be ended.
// bench.js starts it: the order comes as a message, the outcome goes as one.

import { setTimeout as sleep } from 'node:timers/promises';
import { Meter, distribution } from './measure.js';
import { connectAdmin, dropDatabase, makeDatabase } from './server.js';
import { loadSystems } from './systems.js';

const PATIENCE = 10000; // milliseconds that closing a failed system may take

async function run({ system: label, workload, sizes, quick, database }) {
	const system = (await loadSystems()).find((candidate) => candidate.label === label);
	const admin = await connectAdmin();
	const url = await makeDatabase(admin, database);
	const instance = await system.open(url, { quick });
	let closed = false;
	try {
		if (!instance[workload]) {
			return { unsupported: Object.keys(instance) };
		}
		// Every run begins just after a checkpoint, with the log's old segments recycled.
		await admin.query('CHECKPOINT');
		const meter = await Meter.start(admin, database);
		const outcome = await instance[workload](sizes);
		await meter.stop();
		await instance.verify?.();
		await instance.close();
		closed = true;
		return { ...digest(outcome), cost: await meter.finish() };
	} finally {
		await Promise.race([closed || instance.close().catch(() => {}), sleep(PATIENCE)]);
		await dropDatabase(admin, database).catch(() => {});
		await admin.end();
	}
}

// Samples become their distribution; everything else stays.
function digest(outcome) {
	const isSamples = (value) => Array.isArray(value) && value.length > 0 && value.every((sample) => typeof sample === 'number');
	return Object.fromEntries(Object.entries(outcome).map(([name, value]) =>
		[name, isSamples(value) ? distribution(value) : value]));
}

let answered = false;

function answer(message) {
	if (!answered) {
		answered = true;
		process.send(message, () => process.exit(0));
	}
}

// A connection that breaks when its database is dropped comes too late to count.
process.on('uncaughtException', (error) => answer({ error: String(error.stack ?? error) }));

// bench.js has gone: so does its run.
process.on('disconnect', () => process.exit(1));

process.once('message', (order) => run(order).then((ok) => answer({ ok }), (error) => answer({ error: String(error.stack ?? error) })));
