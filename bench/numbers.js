// How numbers are written for people.

// Three significant digits, thousands grouped: 31,200, 4.13, 0.071.
export function number(value) {
	if (value === undefined || value === null || Number.isNaN(value)) {
		return '–';
	}
	if (value === 0) {
		return '0';
	}
	const size = Math.abs(value);
	if (size >= 1000) {
		const step = 10 ** (Math.floor(Math.log10(size)) - 2);
		return (Math.round(value / step) * step).toLocaleString('en', { maximumFractionDigits: 0 });
	}
	if (size < 0.001) {
		return '< 0.001';
	}
	return value.toLocaleString('en', { maximumSignificantDigits: 3 });
}

export const times = (value) => Number.isFinite(value) ? `${number(value)}×` : '–';
