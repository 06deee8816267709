// The systems that are measured: tasker, the peers, and the floor under all of
// them. A new one is a file in peers/ whose default export is a list of systems;
// a file that cannot be loaded takes only its own systems away.

import { readdirSync } from 'node:fs';

const peers = readdirSync(new URL('peers/', import.meta.url)).filter((name) => name.endsWith('.js')).sort();
const modules = ['./tasker/systems.js', ...peers.map((name) => `./peers/${name}`), './floor.js'];

// All systems, each with its label; report(module, reason) hears of modules
// that cannot be loaded.
export async function loadSystems(report = () => {}) {
	const systems = [];
	for (const module of modules) {
		try {
			// A file without a list helps the others.
			for (const system of (await import(module)).default ?? []) {
				systems.push({ ...system, label: system.variant ? `${system.name}:${system.variant}` : system.name });
			}
		} catch (error) {
			report(module, String(error.message).split('\n', 1)[0]);
		}
	}
	return systems;
}
