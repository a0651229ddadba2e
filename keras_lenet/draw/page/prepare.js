// A drawing to 28×28 pixels in MNIST style, as keras_lenet/edge/prepare.py does from the box of the
// digit on: crop, scale to 20 pixels, centre of mass to the middle. A test holds the two together.

const SIZE = 28, FIT = 20, HAIR = 1.2, STROKE = 2, TIE = 1e-3, FAINT = 0.1201;
const { max, min, round } = Math;

// `ink` has one byte a pixel, row by row, 255 for full ink. Returns {image: Uint8Array of 784, found}.
export function prepare({ width, height, ink }) {
	const image = new Uint8Array(SIZE * SIZE);
	const rows = Array.from({ length: height }, (_, y) => Array.from(ink.subarray(y * width, (y + 1) * width), (level) => level / 255));
	const [top, bottom] = inked(rows, 0.5), [left, right] = inked(transposed(rows), 0.5);
	if (top === bottom) return { image, found: false };
	const least = max(1, max(bottom - top, right - left) / (2 * FIT)); // half a pixel of the 20×20
	const [first, last] = inked(rows, FAINT, least), [start, end] = inked(transposed(rows), FAINT, least);
	const strokes = rows.slice(min(top, first), max(bottom, last)).map((row) => row.slice(min(left, start), max(right, end)));
	const digit = fit(strokes);
	const [y, x] = [digit, transposed(digit)].map(place);
	digit.forEach((row, v) => row.forEach((level, u) => { image[(y + v) * SIZE + x + u] = round(255 * level); }));
	return { image, found: true };
}

const transposed = (rows) => rows[0].map((_, x) => rows.map((row) => row[x]));
const sum = (values) => values.reduce((total, value) => total + value, 0);

// First row, and the row after the last, with at least `least` pixels of more ink than `limit`.
function inked(rows, limit, least = 1) {
	const enough = rows.map((row) => row.filter((level) => level > limit).length >= least);
	return [max(0, enough.indexOf(true)), enough.lastIndexOf(true) + 1];
}

function fit(strokes) {
	const stroke = strokeWidth(strokes) * FIT / max(strokes.length, strokes[0].length);
	if (stroke >= HAIR) return resize(strokes, FIT);
	const spread = (rows) => { // [1 2 1] / 4 down the columns
		const none = rows[0].map(() => 0), padded = [none, none, ...rows, none, none];
		return padded.slice(1, -1).map((row, y) => row.map((level, x) => (padded[y][x] + 2 * level + padded[y + 2][x]) / 4));
	};
	const wide = transposed(spread(transposed(spread(resize(strokes, FIT - 2)))));
	return wide.map((row) => row.map((level) => min(1, level * STROKE / max(stroke, 0.05))));
}

// Mean width: a line of length L has area L·w and outline 2·L; the outline is the total variation.
function strokeWidth(strokes) {
	const at = (y, x) => strokes[y]?.[x] ?? 0;
	let outline = 0;
	for (let y = -1; y < strokes.length; y++) {
		for (let x = -1; x < strokes[0].length; x++) {
			outline += Math.hypot(at(y + 1, x) - at(y, x), at(y, x + 1) - at(y, x));
		}
	}
	return 2 * sum(strokes.map(sum)) / max(outline, 1e-6);
}

// Scale the longer side to `side`: each pixel is the mean of the area that it covers.
function resize(rows, side) {
	const scale = side / max(rows.length, rows[0].length);
	const along = (source) => {
		const after = max(1, round(source.length * scale)), step = source.length / after;
		return Array.from({ length: after }, (_, row) => {
			const weights = source.map((_, y) => min(max(min((row + 1) * step, y + 1) - max(row * step, y), 0), 1) / step);
			return source[0].map((_, x) => sum(weights.map((weight, y) => weight && weight * source[y][x])));
		});
	};
	return transposed(along(transposed(along(rows))));
}

// The first row of a digit whose centre of mass lies at pixel 14.
function place(digit) {
	const profile = digit.map(sum), mass = sum(profile.map((value, y) => value * y)) / max(sum(profile), 1e-6);
	return min(max(round(SIZE / 2 - mass + TIE), 0), SIZE - digit.length);
}
