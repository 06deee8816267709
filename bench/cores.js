// Which cores processes may run on. Node has nothing for that: taskset (util-linux) has.

import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';

// The cores that this process may run on.
export function allowedCores() {
	const [, list] = readFileSync('/proc/self/status', 'latin1').match(/^Cpus_allowed_list:\s*(\S+)/m);
	return list.split(',').flatMap((range) => {
		const [first, last = first] = range.split('-').map(Number);
		return Array.from({ length: last - first + 1 }, (_, i) => first + i);
	});
}

// Has processes, with all their threads, run on these cores only. One that has ended meanwhile does not matter;
// false if it may not be done.
export function confine(pids, cores) {
	return pids.every((pid) => {
		const { status, stderr } = spawnSync('taskset', ['-acp', cores.join(','), String(pid)], { encoding: 'utf8' });
		return status === 0 || /No such process/.test(stderr ?? '');
	});
}
