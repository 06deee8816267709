#!/usr/bin/env node
// Makes the report from the raw lines of a run: report.md with a table for each
// workload, plots, and summary.md, the small table of the README.
// usage: report.js DIR

import { readFileSync, realpathSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { median } from './measure.js';
import { number, times } from './numbers.js';
import { barChart, lineChart } from './svg.js';
import { workloads } from './workloads.js';

// --- reading ------------------------------------------------------------------

// What counts of one run; higher says whether more is better. Only these kinds
// of workloads are compared between systems.
const figures = {
	rate: { of: (line) => line.units / line.seconds, higher: true },
	seconds: { of: (line) => line.seconds, higher: false },
	samples: { of: (line) => line.samples.p50, higher: false },
	flat: { of: (line) => line.units / line.seconds, higher: true },
};

const unitsOf = (line) => line.units ?? line.samples?.count;

// One line for the screen.
export function figure(workload, line) {
	const { cost } = line;
	const units = unitsOf(line);
	const costs = units && workload.reads !== 'flat'
		? `   each ${number(cost.walBytes / units)} B of WAL, ${number(cost.serverCpuSeconds / units * 1e6)} µs of server` : '';
	const noise = cost.foreignCpu > 0.1 ? `   (strangers had ${Math.round(cost.foreignCpu * 100)} % of the CPU)` : '';
	return headline(workload, line) + costs + noise;
}

const perSecond = (run) => run.perSecond;
const percent = (share) => `${Math.round(share * 1000) / 10} %`;

function headline({ reads, unit }, line) {
	switch (reads) {
	case 'rate': return `${number(line.units / line.seconds)} ${unit}/s`;
	case 'seconds': return `${number(line.seconds)} s`;
	case 'samples': return `p50 ${number(line.samples.p50)} p95 ${number(line.samples.p95)} p99 ${number(line.samples.p99)} max ${number(line.samples.max)} ms`;
	case 'flat': return `${number(line.units / line.seconds)} ${unit}/s, nearly empty ${number(line.emptyUnits / line.emptySeconds)}`;
	case 'commits': return `${number(line.alone.perSecond)} commits/s alone, ${number(line.withTask.perSecond)} with a task in each, ${number(line.besideStarts.perSecond)} beside ${number(line.besideStarts.startsPerSecond)} starts/s`;
	case 'idle': return `p50 ${number(line.none.p50)} ms alone, ${number(line.listening.p50)} with ${line.n} listening${line.awaiting ? `, ${number(line.awaiting.p50)} awaiting` : ''}`;
	case 'telemetry': return [line, line.apart].filter(Boolean).map(({ off, tasks, all, ratios }) =>
		`${number(median(off.map(perSecond)))} ${unit}/s without, ${number(median(tasks.map(perSecond)))} with the events of tasks: ${percent(ratios.tasks)}, ${
			number(median(all.map(perSecond)))} with all: ${percent(ratios.all)}`).join('; apart: ');
	case 'floor': return line.rates.map(({ clients, perSecond }) => `${clients}: ${number(perSecond)}`).join(', ');
	default: return '';
	}
}

// All about one workload: for each system its good runs, with the median one
// picked by the figure.
function gather(workload, lines) {
	const systems = new Map();
	for (const line of lines.filter((candidate) => candidate.workload === workload.name)) {
		const entry = systems.get(line.system) ?? systems.set(line.system, { system: line.system, kind: line.kind, runs: [], failures: [] }).get(line.system);
		line.error ? entry.failures.push(line.error) : entry.runs.push(line);
	}
	const { of } = figures[workload.reads] ?? { of: () => 0 };
	return [...systems.values()].map((entry) => {
		const values = entry.runs.map(of);
		const value = values.length ? median(values) : NaN;
		const typical = [...entry.runs].sort((a, b) => Math.abs(of(a) - value) - Math.abs(of(b) - value))[0];
		return { ...entry, values, value, typical };
	});
}

// The best of tasker's ordinary clients: what all others are compared with.
function reference(workload, entries) {
	const { higher } = figures[workload.reads] ?? {};
	const own = entries.filter(({ system, typical }) => typical && system.startsWith('tasker') && !system.endsWith('libpq'));
	return own.sort((a, b) => higher ? b.value - a.value : a.value - b.value)[0];
}

// How many times tasker is better.
function ahead(workload, entry, best) {
	if (!best || !entry.typical || entry.system.startsWith('tasker')) {
		return '';
	}
	return times(figures[workload.reads].higher ? best.value / entry.value : entry.value / best.value);
}

// --- tables -------------------------------------------------------------------

const row = (cells) => `| ${cells.join(' | ')} |`;

function table(head, rows) {
	const lines = [row(head), row(head.map((_, i) => i ? '--:' : ':--')), ...rows.map(row)];
	return lines.join('\n') + '\n';
}

const medianOf = (entry, of) => median(entry.runs.map(of));

// WAL, transactions and so on of each unit; medians.
function costCells(entry) {
	const each = (of) => number(medianOf(entry, (line) => of(line.cost) / unitsOf(line)));
	return [
		each(({ walBytes }) => walBytes), each(({ writingTransactions }) => writingTransactions), each(({ deadTuples }) => deadTuples),
		each(({ serverCpuSeconds }) => serverCpuSeconds * 1e6), each(({ clientCpuSeconds }) => clientCpuSeconds * 1e6),
	];
}

const COSTS = ['WAL bytes', 'transactions', 'dead tuples', 'server CPU µs', 'client CPU µs'];

const name = (entry) => entry.system.startsWith('tasker') ? `**${entry.system}**` : entry.system;
const spread = ({ values, value }, write = number) =>
	values.length > 1 ? `${write(value)} (${write(Math.min(...values))}–${write(Math.max(...values))})` : write(value);

const tables = {
	rate(workload, entries, best) {
		return table(['', `${workload.unit}/s`, 'tasker ahead', ...COSTS], entries.map((entry) =>
			[name(entry), spread(entry), ahead(workload, entry, best), ...costCells(entry)]));
	},
	seconds(workload, entries, best) {
		return table(['', 'seconds', `${workload.unit}/s`, 'tasker ahead', ...COSTS], entries.map((entry) =>
			[name(entry), spread(entry), number(entry.typical.units / entry.value), ahead(workload, entry, best), ...costCells(entry)]));
	},
	samples(workload, entries, best) {
		return table(['', 'p50 ms', 'p95', 'p99', 'max', 'samples', 'tasker ahead', 'server CPU µs', 'client CPU µs'], entries.map((entry) => [
			name(entry), spread(entry), ...['p95', 'p99', 'max'].map((share) => number(medianOf(entry, (line) => line.samples[share]))),
			entry.typical.samples.count, ahead(workload, entry, best), ...costCells(entry).slice(3),
		]));
	},
	flat(workload, entries, best) {
		return table(['', `nearly empty, ${workload.unit}/s`, 'then', 'of that', 'tasker ahead'], entries.map((entry) => {
			const empty = medianOf(entry, (line) => line.emptyUnits / line.emptySeconds);
			return [name(entry), number(empty), spread(entry), `${Math.round(entry.value / empty * 100)} %`, ahead(workload, entry, best)];
		}));
	},
	commits(workload, [entry]) {
		const whats = {
			alone: 'alone', withTask: 'with create_task in each', besideStarts: 'beside 2,000 task starts/s of another connection',
		};
		return table(['', 'commits/s', 'of alone', 'at 1,000/s: p50 ms', 'p99 ms', 'starts/s beside'], Object.entries(whats).map(([key, what]) => {
			const rate = medianOf(entry, (line) => line[key].perSecond);
			return [
				what, number(rate), `${Math.round(rate / medianOf(entry, (line) => line.alone.perSecond) * 100)} %`,
				...['p50', 'p99'].map((share) => number(medianOf(entry, (line) => line[`${key}AtRate`].latency[share]))),
				entry.typical[key].startsPerSecond ? number(medianOf(entry, (line) => line[key].startsPerSecond)) : '',
			];
		}));
	},
	idle(workload, [entry]) {
		const { n } = entry.typical;
		const whats = { none: 'no other session', listening: `${n} executors that listen`, awaiting: `${n} executors in await_steps` };
		return table(['', 'p50 ms', 'p95', 'p99', 'server CPU µs a task'], Object.entries(whats).filter(([key]) => entry.typical[key]).map(([key, what]) =>
			[what, ...['p50', 'p95', 'p99'].map((share) => number(medianOf(entry, (line) => line[key][share]))),
				number(medianOf(entry, (line) => line[`${key}CpuMicroseconds`]))]));
	},
	telemetry(workload, [entry]) {
		const whats = {
			off: 'nobody looks on',
			tasks: 'a consumer and a subscription of the events of tasks, a schedule, a trigger, traces, a scrape a second',
			all: 'the same, of all events',
		};
		const places = Object.entries({ 'on the same cores': entry.typical, 'on cores of their own': entry.typical.apart }).filter(([, runs]) => runs);
		return table(['observers', '', `${workload.unit}/s`, 'of that', 'orchestrator CPU µs a step', "executors' CPU µs", "observers' CPU µs, client included", 'the consumer is behind by s'],
			places.flatMap(([place, runs]) => Object.entries(whats).map(([key, what]) => {
				const each = (of) => number(median(runs[key].map(of)));
				return [
					place, what, spread({ values: runs[key].map(perSecond), value: median(runs[key].map(perSecond)) }), key === 'off' ? '' : percent(runs.ratios[key]),
					each((run) => run.orchestratorMicroseconds), each((run) => run.executorMicroseconds),
					...key === 'off' ? ['', ''] : [each((run) => run.observerMicroseconds), each((run) => run.behindSeconds)],
				];
			})));
	},
	floor(workload, [entry]) {
		const clients = [...new Set(entry.typical.rates.map((rate) => rate.clients))];
		const whats = [...new Set(entry.typical.rates.map((rate) => rate.what))];
		const of = (what, count) => medianOf(entry, (line) => line.rates.find((rate) => rate.what === what && rate.clients === count).perSecond);
		return table(['a second', ...clients.map((count) => `${count} client${count > 1 ? 's' : ''}`)],
			whats.map((what) => [what, ...clients.map((count) => number(of(what, count)))]));
	},
};

function sizesOf(entries) {
	const { sizes } = entries[0].typical;
	return Object.entries(sizes).map(([key, value]) => `${key} ${Array.isArray(value) ? value.join(', ') : value.toLocaleString('en')}`).join(', ');
}

// Runs during which others used the machine are named.
function noise(entries) {
	const shares = entries.flatMap(({ system, runs }) => runs.filter(({ cost }) => cost.foreignCpu > 0.1)
		.map(({ run, cost }) => `${system} run ${run}: ${Math.round(cost.foreignCpu * 100)} %`));
	return shares.length ? `\nOther processes had more than a tenth of the CPU: ${shares.join('; ')}.\n` : '';
}

function section(workload, entries) {
	const good = entries.filter(({ typical }) => typical);
	const failures = entries.flatMap(({ system, failures: some }) => some.map((error) => `\n${system}: ${error.split('\n', 1)[0]}.\n`)).join('');
	if (!good.length) {
		return `### ${workload.title}\n\n${failures}`;
	}
	return `### ${workload.title}\n\n\`${workload.name}\`: ${sizesOf(good)}; runs: ${Math.max(...good.map(({ runs }) => runs.length))}\n\n`
		+ tables[workload.reads](workload, good, reference(workload, good)) + noise(good) + failures;
}

// --- plots --------------------------------------------------------------------

const bars = (entries, value = (entry) => entry.value, tail = () => undefined) =>
	entries.filter(({ typical }) => typical).map((entry) => ({ label: entry.system, value: value(entry), tail: tail(entry) }));

// By file name; a plot of workloads that were not run is left out.
function plots(all) {
	const some = (names) => names.map((wanted) => all.find(({ workload }) => workload.name === wanted)).filter(Boolean);
	const groups = (names, value, tail) => some(names).map(({ workload, entries }) => ({ label: workload.title, bars: bars(entries, value, tail) }));
	const p99 = (entry) => medianOf(entry, (line) => line.samples.p99);
	const perUnit = (of) => (entry) => medianOf(entry, (line) => of(line.cost) / unitsOf(line));
	const shapes = workloads.filter(({ method }) => method === 'shapes').map((workload) => workload.name);
	return {
		drain: { title: 'One-step jobs drained by one worker', unit: 'jobs a second', groups: groups(['drain']) },
		shapes: { title: 'Workflows of no-op steps', unit: 'steps a second', groups: groups(shapes) },
		fanout: { title: 'Fan-out and fan-in', unit: 'seconds', logarithmic: true, groups: groups(['fanout-1000', 'fanout-10000']) },
		latency: {
			title: 'Latency', unit: 'milliseconds, p50 / p99', logarithmic: true,
			groups: groups(['latency', 'open-loop', 'diamond-idle', 'hop', 'retries'], undefined, p99),
		},
		backlog: {
			title: 'Does a backlog matter?', unit: 'jobs a second',
			groups: some(['backlog']).flatMap(({ workload, entries }) => [
				{ label: 'nearly empty', bars: bars(entries, (entry) => medianOf(entry, (line) => line.emptyUnits / line.emptySeconds)) },
				{ label: `${(entries[0]?.typical?.sizes.waiting ?? 0).toLocaleString('en')} jobs waiting`, bars: bars(entries) },
			]),
		},
		wal: { title: 'Write-ahead log', unit: 'bytes a step, creation included', groups: groups(['drain', 'shape-diamond'], perUnit(({ walBytes }) => walBytes)) },
		cpu: {
			title: 'Server CPU time', unit: 'microseconds a step, creation included',
			groups: groups(['drain', 'shape-diamond'], perUnit(({ serverCpuSeconds }) => serverCpuSeconds * 1e6)),
		},
	};
}

function snapshotPlot(all) {
	const found = all.find(({ workload }) => workload.name === 'snapshot');
	if (!found) {
		return null;
	}
	return lineChart({
		title: 'Rate while another session holds a snapshot', unit: 'jobs a second, in bursts', xLabel: 'seconds held',
		series: found.entries.filter(({ typical }) => typical).map(({ system, typical }) => ({
			label: system, points: typical.series.map(({ at, units, seconds }) => [at, units / seconds]),
		})),
	});
}

function writePlots(folder, all) {
	const written = [];
	const write = (file, svg) => {
		if (svg) {
			writeFileSync(join(folder, `${file}.svg`), svg);
			written.push(file);
		}
	};
	for (const [file, settings] of Object.entries(plots(all))) {
		const filled = settings.groups.filter(({ bars: some }) => some.length);
		write(file, filled.length ? barChart({ ...settings, groups: filled }) : null);
	}
	write('snapshot', snapshotPlot(all));
	return written;
}

// --- the files ----------------------------------------------------------------

function setting(about) {
	const { server } = about;
	return `${about.date}${about.quick ? ', quick mode' : ''}; ${about.cores} cores (${about.processor}), ${about.memoryGigabytes} GB; `
		+ `PostgreSQL ${server.server_version}, Node ${about.node}; shared_buffers ${server.shared_buffers}, `
		+ `synchronous_commit ${server.synchronous_commit}, fsync ${server.fsync}.`;
}

// The README's table: a row for each workload that compares, a column for each system.
function summary(all, about) {
	const compared = all.filter(({ workload, entries }) => figures[workload.reads] && entries.some(({ typical }) => typical));
	const labels = [...new Set(compared.flatMap(({ entries }) => entries.map(({ system }) => system)))];
	const cell = ({ workload, entries }, label) => {
		const entry = entries.find(({ system, typical }) => system === label && typical);
		if (!entry) {
			return '';
		}
		const written = workload.reads === 'samples' ? `${number(entry.value)} / ${number(medianOf(entry, (line) => line.samples.p99))}` : number(entry.value);
		return label.startsWith('tasker') ? `**${written}**` : written;
	};
	const units = { rate: (unit) => `${unit}/s`, flat: (unit) => `${unit}/s`, seconds: () => 's', samples: () => 'ms p50 / p99' };
	return `<!-- bench -->\n${table(['', ...labels], compared.map((item) =>
		[`${item.workload.title} (${units[item.workload.reads](item.workload.unit)})`, ...labels.map((label) => cell(item, label))]))}\n`
		+ `${setting(about)} Made by \`./run bench\`; all figures: bench/results/report.md.\n<!-- /bench -->\n`;
}

export function report(folder) {
	const [{ about }, ...lines] = readFileSync(join(folder, 'raw.jsonl'), 'utf8').trim().split('\n').map((line) => JSON.parse(line));
	const all = workloads.map((workload) => ({ workload, entries: gather(workload, lines) })).filter(({ entries }) => entries.length);
	const pictures = writePlots(folder, all);
	const topics = [...new Set(all.map(({ workload }) => workload.topic))];
	writeFileSync(join(folder, 'report.md'), [
		'# Results of bench\n', `${setting(about)}\n`,
		'Medians of the runs, in parentheses the least and the largest; costs are of each job or step, its creation included. '
		+ '"tasker ahead": how many times better the best of tasker\'s ordinary clients (push, await, pull) is; below 1 it is behind. '
		+ '`tasker:libpq` is a C client that shows the limit.\n',
		...topics.flatMap((topic) => [
			`## ${topic}\n`,
			...all.filter(({ workload }) => workload.topic === topic).map(({ workload, entries }) => section(workload, entries)),
		]),
		'## Plots\n', ...pictures.map((file) => `![${file}](${file}.svg)\n`),
		'## Server settings\n', table(['setting', 'value'], Object.entries(about.server)),
	].join('\n'));
	writeFileSync(join(folder, 'summary.md'), summary(all, about));
}

if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
	report(process.argv[2] ?? fileURLToPath(new URL('results', import.meta.url)));
}
