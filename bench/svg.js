// Two kinds of charts, as SVG text: bars that lie, in groups, and lines over
// time. Both stand on a white card, so that they can be read on any page.

import { number } from './numbers.js';

const FONT = "font-family=\"system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif\"";
const INK = '#1f2933';
const FAINT = '#7b8794';
const GRID = '#e4e7eb';
const WIDTH = 820;
const PALETTE = ['#0f766e', '#d97706', '#6366f1', '#be185d', '#64748b'];

const escape = (text) => String(text).replace(/[&<>"]/g, (sign) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' })[sign]);

function text(x, y, content, { size = 12, fill = INK, anchor = 'start', weight = 400 } = {}) {
	return `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}" font-size="${size}" font-weight="${weight}" fill="${fill}" text-anchor="${anchor}">${escape(content)}</text>`;
}

function card(height, title, subtitle, parts) {
	return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" width="${WIDTH}" height="${height}" role="img" aria-label="${escape(title)}" ${FONT}>
<rect x="0.5" y="0.5" width="${WIDTH - 1}" height="${height - 1}" rx="8" fill="#ffffff" stroke="${GRID}"/>
${text(24, 34, title, { size: 17, weight: 600 })}
${text(24, 54, subtitle, { fill: FAINT })}
${parts.join('\n')}
</svg>
`;
}

// Round values from 0 to at least the largest one.
function ticks(largest) {
	const rough = largest / 5;
	const power = 10 ** Math.floor(Math.log10(rough));
	const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= rough * 0.999);
	return Array.from({ length: Math.ceil(largest / step - 1e-9) + 1 }, (_, i) => i * step);
}

// A linear or logarithmic axis: where a value lies, and the values to mark.
function axis(values, logarithmic, from, to) {
	if (!logarithmic) {
		const marks = ticks(Math.max(...values));
		const end = marks[marks.length - 1];
		return { marks, at: (value) => from + (to - from) * value / end };
	}
	const low = Math.floor(Math.log10(Math.min(...values)) - 0.05);
	const high = Math.ceil(Math.log10(Math.max(...values)));
	return {
		marks: Array.from({ length: high - low + 1 }, (_, i) => 10 ** (low + i)),
		at: (value) => from + (to - from) * Math.max(0, Math.log10(value) - low) / (high - low || 1),
	};
}

// The colour of a system's bar: tasker stands out, the limit is its shade.
function colour(label) {
	if (!label.startsWith('tasker')) {
		return '#94a3b8';
	}
	return label.endsWith('libpq') ? '#99cfc8' : '#0f766e';
}

// groups: [{ label, bars: [{ label, value, tail? }] }]; tail is a second value,
// drawn as a thin line to it (p99 behind p50).
export function barChart({ title, unit, groups, logarithmic = false }) {
	const left = 170;
	const right = WIDTH - 110;
	const rowHeight = 22;
	const values = groups.flatMap(({ bars }) => bars.flatMap(({ value, tail }) => [value, tail ?? value])).filter((value) => value > 0);
	if (!values.length) {
		return null;
	}
	const { marks, at } = axis(values, logarithmic, left, right);
	const parts = [];
	let y = 74;
	const top = y;
	for (const { label, bars } of groups) {
		if (label) {
			parts.push(text(24, y + 14, label, { weight: 600 }));
			y += rowHeight;
		}
		for (const { label: name, value, tail } of bars) {
			const end = Math.max(left + 1, at(value));
			parts.push(text(left - 10, y + 15, name, { anchor: 'end' }));
			parts.push(`<rect x="${left}" y="${y + 3}" width="${(end - left).toFixed(1)}" height="${rowHeight - 6}" rx="2" fill="${colour(name)}"/>`);
			let last = end;
			let written = number(value);
			if (tail > value) {
				last = at(tail);
				written += ` / ${number(tail)}`;
				parts.push(`<path d="M${end.toFixed(1)} ${y + rowHeight / 2}H${last.toFixed(1)}m0 -5v10" stroke="${INK}" stroke-width="1.2" fill="none"/>`);
			}
			parts.push(text(last + 7, y + 15, written, { weight: name.startsWith('tasker') ? 600 : 400 }));
			y += rowHeight;
		}
		y += 8;
	}
	const grid = marks.map((mark) => `<line x1="${at(mark).toFixed(1)}" x2="${at(mark).toFixed(1)}" y1="${top}" y2="${y}" stroke="${GRID}"/>`
		+ text(at(mark), y + 16, number(mark), { size: 11, fill: FAINT, anchor: 'middle' }));
	const height = y + 32;
	return card(height, title, unit + (logarithmic ? ', logarithmic' : ''), [...grid, ...parts]);
}

// series: [{ label, points: [[x, y], ...] }]
export function lineChart({ title, unit, xLabel, series }) {
	const points = series.flatMap(({ points: some }) => some);
	if (!points.length) {
		return null;
	}
	const [left, right, top, bottom] = [80, WIDTH - 30, 96, 330];
	const horizontal = axis(points.map(([x]) => x).concat(1), false, left, right);
	const vertical = axis(points.map(([, y]) => y).concat(1), false, bottom, top);
	const parts = [
		...vertical.marks.map((mark) => `<line x1="${left}" x2="${right}" y1="${vertical.at(mark).toFixed(1)}" y2="${vertical.at(mark).toFixed(1)}" stroke="${GRID}"/>`
			+ text(left - 8, vertical.at(mark) + 4, number(mark), { size: 11, fill: FAINT, anchor: 'end' })),
		...horizontal.marks.map((mark) => text(horizontal.at(mark), bottom + 18, number(mark), { size: 11, fill: FAINT, anchor: 'middle' })),
		text((left + right) / 2, bottom + 38, xLabel, { fill: FAINT, anchor: 'middle' }),
	];
	for (const [i, { label, points: own }] of series.entries()) {
		const stroke = PALETTE[i % PALETTE.length];
		const path = own.map(([x, y], k) => `${k ? 'L' : 'M'}${horizontal.at(x).toFixed(1)} ${vertical.at(y).toFixed(1)}`).join('');
		parts.push(`<path d="${path}" fill="none" stroke="${stroke}" stroke-width="2"/>`);
		parts.push(`<rect x="${24 + i * 180}" y="66" width="12" height="12" rx="2" fill="${stroke}"/>` + text(42 + i * 180, 76, label));
	}
	return card(bottom + 54, title, unit, parts);
}
