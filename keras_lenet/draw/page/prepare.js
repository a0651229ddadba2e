// Any picture of one digit to 28×28 pixels in MNIST style: keras_lenet/edge/prepare.py and ink.py,
// step by step and under the same names, which say why each step is there. A test holds the two
// together. Grids are {height, width, data}, row by row: Float32Array for grey, Uint8Array for masks.
// What runs over every pixel is a plain loop: callbacks are several times slower.

const SIZE = 28, FIT = 20, HAIR = 1.2, STROKE = 2, TIE = 1e-3;
const WORK = 400, ENOUGH = 48, WINDOW = 0.5, NOISY = 0.012, LUMA = [0.299, 0.587, 0.114];
const BLACK = 0.2, STRONGEST = 12, PLAIN = 0.4, COLOURED = 0.2;
const MIN_CONTRAST = 0.08, MIN_SNR = 5, MIN_LEAD = 0.35, MIN_SHARE = 0.5, MIN_STEP = 0.4;
const PAGE_FROM = 0.3, MIN_PAGE = 0.25, MIN_SIDE = 5, FAINT = 0.1201, PART = 0.04, NEAR = 0.3;

const { abs, ceil, floor, fround, hypot, max, min } = Math;

// Find the one digit in {width, height, data}, with one (grey) or four (RGBA) bytes a pixel in `data`.
// Returns {image: Uint8Array of 784, found, polarity, box}. As a worker it answers such messages, so
// that drawing goes on meanwhile.
export function prepare({ width, height, data }) {
	const planes = data.length > width * height ? flatten(height, width, data) : [{ height, width, data }];
	const { ink, box } = findInk(planes), image = ink ? toMnist(ink) : new Uint8Array(SIZE * SIZE);
	return { image, found: Boolean(ink), polarity: ink?.light ? "light on dark" : "dark on light", box };
}

if (globalThis.WorkerGlobalScope) {
	addEventListener("message", ({ data }) => {
		const start = performance.now(), prepared = prepare(data);
		postMessage({ ...prepared, milliseconds: performance.now() - start });
	});
}

// RGBA over white or black, whichever is farther from the colours that show: red, green and blue.
function flatten(height, width, rgba) {
	let total = 0, shown = 0;
	for (let i = 0; i < rgba.length; i += 4) {
		if (!rgba[i + 3]) continue;
		total += (19595 * rgba[i] + 38470 * rgba[i + 1] + 7471 * rgba[i + 2] + 0x8000) >> 16;
		shown++;
	}
	const page = total < 127.5 * max(1, shown) ? 255 : 0;
	return [0, 1, 2].map((channel) => map(grid(height, width, Uint8Array), (_, i) => {
		const alpha = rgba[4 * i + 3], mixed = rgba[4 * i + channel] * alpha + page * (255 - alpha) + 128;
		return ((mixed >> 8) + mixed) >> 8;
	}, Uint8Array));
}

// prepare.py

function toMnist(ink) {
	const strength = crop(ink.strength, ink.box);
	const scale = FIT / max(strength.height, strength.width), stroke = ink.stroke * scale;
	const digit = stroke < HAIR ? thicken(strength, stroke) : resize(strength, FIT);
	const rows = new Float32Array(digit.height), columns = new Float32Array(digit.width);
	each(digit, (value, y, x) => { rows[y] += value; columns[x] += value; });
	const top = place(rows), left = place(columns), image = new Uint8Array(SIZE * SIZE);
	each(digit, (value, y, x) => { image[(top + y) * SIZE + left + x] = rint(fround(255 * value)); });
	return image;
}

function place(profile) {
	let mass = 0, total = 0;
	profile.forEach((value, i) => { mass += i * value; total += value; });
	return clip(rint(SIZE / 2 - mass / max(total, 1e-6) + TIE), 0, SIZE - profile.length);
}

function thicken(strength, stroke) {
	const spread = threes(pad(resize(strength, FIT - 2), 2, false), (a, b, c) => (a + 2 * b + c) / 4);
	return map(spread, (value) => min(value * fround(STROKE / max(stroke, 0.05)), 1));
}

function resize(grey, side) {
	const scale = side / max(grey.height, grey.width);
	const along = (source, after) => { // the rows of the result are the columns of the source
		const weights = resizing(source.height, after), { height, width } = source;
		const result = grid(width, after);
		for (let x = 0; x < width; x++) {
			for (let row = 0; row < after; row++) {
				let sum = 0;
				for (let y = 0; y < height; y++) sum += weights[row * height + y] * source.data[y * width + x];
				result.data[x * after + row] = sum;
			}
		}
		return result;
	};
	const after = [grey.height, grey.width].map((length) => max(1, rint(length * scale)));
	return map(along(along(grey, after[0]), after[1]), (value) => clip(value, 0, 1));
}

function resizing(before, after) {
	const step = before / after, weights = new Float32Array(after * before);
	for (let row = 0; row < after; row++) {
		const values = Array.from({ length: before }, (_, column) => {
			const x = abs((row + 0.5) * step - column - 0.5);
			if (step > 1) return clip(step / 2 + 0.5 - x, 0, 1);
			if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
			return x < 2 ? ((2.5 - 0.5 * x) * x - 4) * x + 2 : 0;
		});
		const total = values.reduce((sum, value) => sum + value, 0);
		values.forEach((value, column) => { weights[row * before + column] = value / total; });
	}
	return weights;
}

// ink.py

function findInk(planes) {
	const { height, width } = planes[0], factor = max(1, ceil(max(height, width) / WORK));
	const ink = findReduced(planes, factor);
	if (!ink) return { ink, box: [0, 0, 0, 0] };
	const box = ink.box.map((edge) => edge * factor);
	if (factor > 1 && longer(ink.box) < ENOUGH) {
		const margin = longer(box), left = max(0, box[0] - margin), top = max(0, box[1] - margin);
		const around = [left, top, min(width, box[2] + margin), min(height, box[3] + margin)];
		const closer = max(1, ceil(longer(around) / WORK));
		const near = findReduced(planes.map((plane) => crop(plane, around)), closer);
		if (near && near.light === ink.light) {
			return { ink: near, box: near.box.map((edge, i) => edge * closer + (i % 2 ? top : left)) };
		}
	}
	return { ink, box };
}

const longer = ([left, top, right, bottom]) => max(right - left, bottom - top);

// Mean over blocks; 0 = black, 1 = white.
function reduce({ height, width, data }, factor) {
	const down = min(factor, height), across = min(factor, width);
	const blocks = grid(floor(height / down), floor(width / across));
	each(blocks, (_, y, x, i) => {
		let sum = 0;
		for (let v = y * down; v < (y + 1) * down; v++) {
			for (let u = x * across; u < (x + 1) * across; u++) sum += data[v * width + u];
		}
		blocks.data[i] = fround(sum / (down * across)) / 255;
	});
	return blocks;
}

function findReduced(pixels, factor) {
	const planes = pixels.map((plane) => reduce(plane, factor)), [first, second, third] = planes;
	if (min(first.height, first.width) < MIN_SIDE) return null;
	const luma = third ? map(first, (red, i) =>
		LUMA[0] * red + LUMA[1] * second.data[i] + LUMA[2] * third.data[i]) : first;
	const marks = findMarks(luma);
	if (third && max(0, ...marks.map((mark) => mark.contrast)) < PLAIN) {
		marks.push(...planes.flatMap(findMarks).filter((mark) => mark.contrast > COLOURED));
	}
	return marks.reduce((best, mark) => best?.merit >= mark.merit ? best : mark, null);
}

function findMarks(grey) {
	const mean = (a, b, c) => fround(fround(a + b) + c) / 3;
	const smooth = grain(grey) > NOISY ? threes(pad(grey, 1, true), mean) : grey;
	return [false, true].map((light) => findPolarity(grey, smooth, light)).filter(Boolean);
}

function findPolarity(grey, smooth, light) {
	const page = pageOf(smooth, light), rise = riseOf(smooth, page, light);
	const [base, noise] = pageLevel(rise);
	const [threshold, contrast] = split(rise, base, noise);
	if (contrast < max(MIN_CONTRAST, MIN_SNR * noise, MIN_LEAD * unevenness(page, light))) return null;
	const { mask, share } = selectDigit(rise, fround(base), fround(threshold));
	const side = longer(boxOf(mask)), reach = max(2, floor(side / FIT)), around = grow(mask, reach);
	if (side < MIN_SIDE || share < MIN_SHARE) return null;
	const merit = meritOf(smooth, page, mask, reach);
	if (!merit || stepOf(rise, mask, around, reach) < MIN_STEP * contrast) return null;
	const clean = strengthOf(rise, mask, around), stroke = strokeWidth(clean);
	const strength = smooth === grey ? clean : strengthOf(riseOf(grey, page, light), mask, around);
	return { strength, box: extent(strength, mask), light, stroke, merit, contrast };
}

function riseOf(grey, page, light) {
	const rise = grid(grey.height, grey.width), black = fround(BLACK);
	for (let i = 0; i < rise.data.length; i++) {
		const value = grey.data[i], paper = page.data[i];
		rise.data[i] = light ? value - paper : fround(paper - value) / (paper > black ? paper : black);
	}
	return rise;
}

function unevenness(page, light) {
	const [dark, bright] = percentiles(page.data, 5, 95);
	return light ? bright - dark : (bright - dark) / max(bright, BLACK);
}

function strengthOf(rise, mask, around) {
	const outside = where(rise.data, around.data, 0);
	const [middle, upper] = outside.length > rise.data.length / 4 ? percentiles(outside, 50, 84) : [0, 0];
	const low = middle + 2 * (upper - middle);
	const [full] = percentiles(where(rise.data, mask.data, 1), 75);
	const strength = grid(rise.height, rise.width), range = max(full - low, 1e-6);
	for (let i = 0; i < strength.data.length; i++) {
		if (around.data[i]) strength.data[i] = clip((rise.data[i] - low) / range, 0, 1);
	}
	return strength;
}

function strokeWidth(strength) {
	const { height, width, data } = pad(strength, 1, false);
	let variation = 0, area = 0;
	for (let y = 0; y < height - 1; y++) {
		for (let x = 0; x < width - 1; x++) {
			const i = y * width + x;
			const down = data[i + width] - data[i], across = data[i + 1] - data[i];
			if (down || across) variation += hypot(down, across);
			area += data[i];
		}
	}
	return 2 * area / max(variation, 1e-6);
}

function pageOf(grey, light) {
	const width = 2 * floor(max(grey.height, grey.width) * WINDOW / 2) + 1;
	let page = pad(grey, width - 1, true);
	for (const upper of light ? [false, true] : [true, false]) {
		for (let turn = 0; turn < 2; turn++) page = transpose(slide(page, width, upper));
	}
	return page;
}

// The largest (`upper`) or smallest of each `count` successive values of a row, in three steps a
// value: from the start of its block of `count`, and back from the end (van Herk, 1992).
function slide({ height, width, data }, count, upper) {
	const result = grid(height, width - count + 1, data.constructor), sign = upper ? 1 : -1;
	const [row, since, until] = [0, 0, 0].map(() => new Float32Array(width));
	for (let y = 0; y < height; y++) {
		row.set(data.subarray(y * width, (y + 1) * width));
		for (let start = 0; start < width; start += count) {
			const end = min(start + count, width);
			for (let x = start, best = -Infinity; x < end; x++) {
				const value = sign * row[x];
				since[x] = best = value > best ? value : best;
			}
			for (let x = end - 1, best = -Infinity; x >= start; x--) {
				const value = sign * row[x];
				until[x] = best = value > best ? value : best;
			}
		}
		for (let x = 0; x < result.width; x++) {
			const first = until[x], last = since[x + count - 1];
			row[x] = sign * (first > last ? first : last);
		}
		result.data.set(row.subarray(0, result.width), y * result.width);
	}
	return result;
}

function grow(mask, reach) {
	const across = transpose(slide(pad(mask, reach, false), 2 * reach + 1, true));
	return transpose(slide(across, 2 * reach + 1, true));
}

function pageLevel(rise) {
	const [low, high] = percentiles(rise.data, 5, 20), spread = (high - low) / 0.8;
	return [high + 0.84 * spread, max(spread, grain(rise), 1 / 512)];
}

function grain({ height, width, data }) {
	const steps = new Float32Array(height * (width - 1));
	for (let y = 0, i = 0; y < height; y++) {
		for (let x = 1; x < width; x++) steps[i++] = abs(data[y * width + x] - data[y * width + x - 1]);
	}
	return 1.56 * percentiles(steps, 35)[0];
}

function split(rise, base, noise) {
	const values = rise.data.slice();
	let ink = select(values, values.length - min(STRONGEST, values.length)), threshold;
	for (let turn = 0; turn < 5; turn++) {
		threshold = max((base + ink) / 2, base + 4 * noise);
		const limit = fround(threshold);
		let total = 0, count = 0;
		for (let i = 0; i < values.length; i++) if (values[i] > limit) { total += values[i]; count++; }
		if (!count) return [threshold, 0];
		ink = total / count;
	}
	return [threshold, ink - base];
}

function boxOf({ height, width, data }) {
	let left = width, top = height, right = 0, bottom = 0;
	for (let y = 0, i = 0; y < height; y++) {
		for (let x = 0; x < width; x++, i++) {
			if (!data[i]) continue;
			if (x < left) left = x;
			if (x >= right) right = x + 1;
			if (top > y) top = y;
			bottom = y + 1;
		}
	}
	return right ? [left, top, right, bottom] : [0, 0, 0, 0];
}

function extent({ height, width, data }, mask) {
	const box = boxOf(mask), least = max(1, longer(box) / (2 * FIT)), faint = fround(FAINT);
	const rows = new Uint32Array(height), columns = new Uint32Array(width);
	for (let y = 0, i = 0; y < height; y++) {
		for (let x = 0; x < width; x++, i++) if (data[i] > faint) { rows[y]++; columns[x]++; }
	}
	const enough = (count) => count >= least;
	const [left, top] = [columns.findIndex(enough), rows.findIndex(enough)];
	if (left < 0 || top < 0) return box;
	const [right, bottom] = [columns.findLastIndex(enough) + 1, rows.findLastIndex(enough) + 1];
	return [min(box[0], left), min(box[1], top), max(box[2], right), max(box[3], bottom)];
}

function stepOf(rise, mask, around, reach) {
	const beyond = grow(map(mask, (set) => 1 - set, Uint8Array), reach);
	let rim = 0, edge = 0, outside = 0, near = 0;
	for (let i = 0; i < rise.data.length; i++) {
		if (mask.data[i]) {
			if (beyond.data[i]) { rim += rise.data[i]; edge++; }
		} else if (around.data[i]) { outside += rise.data[i]; near++; }
	}
	return near ? rim / edge - outside / near : 0;
}

function meritOf(grey, page, mask, reach) {
	const { height, width } = mask, [left, top, right, bottom] = boxOf(mask);
	const ink = mean(where(grey.data, mask.data, 1)), paper = mean(where(page.data, mask.data, 1));
	const within = (y, x, margin) => y >= top - margin && y < bottom + margin
		&& x >= left - margin && x < right + margin;
	const shareOf = (chosen) => {
		let count = 0, paperlike = 0;
		for (let y = 0, i = 0; y < height; y++) {
			for (let x = 0; x < width; x++, i++) {
				if (!chosen(y, x)) continue;
				count++;
				if ((grey.data[i] - ink) / (paper - ink) > PAGE_FROM) paperlike++;
			}
		}
		return paperlike / count;
	};
	let share = shareOf((y, x) => within(y, x, 3 * reach) && !within(y, x, reach));
	if (Number.isNaN(share)) { // the digit fills the image
		share = shareOf((y, x) => !y || !x || y === height - 1 || x === width - 1);
	}
	return share > MIN_PAGE ? abs(ink - paper) / max(ink, paper, BLACK) * share : 0;
}

function selectDigit({ height, width, data }, base, threshold) {
	const totals = new Float64Array(data.length + 1);
	for (let i = 0; i < data.length; i++) totals[i + 1] = totals[i] + fround(data[i] - base);
	const runs = runsOf(height, width, data, threshold), components = new Map();
	runs.forEach(({ row, start, end, root }) => {
		const part = components.get(root)
			?? { ink: 0, left: width, top: height, right: 0, bottom: 0, kept: false };
		part.ink += totals[row * width + end] - totals[row * width + start];
		part.left = min(part.left, start); part.right = max(part.right, end);
		part.top = min(part.top, row); part.bottom = max(part.bottom, row + 1);
		components.set(root, part);
	});
	const parts = [...components.keys()].sort((a, b) => a - b).map((root) => components.get(root));
	belongTogether(parts, height, width);
	const mask = grid(height, width, Uint8Array);
	for (const { row, start, end, root } of runs) {
		if (components.get(root).kept) mask.data.fill(1, row * width + start, row * width + end);
	}
	const sum = (some) => some.reduce((total, { ink }) => total + ink, 0);
	return { mask, share: sum(parts.filter(({ kept }) => kept)) / sum(parts) };
}

function belongTogether(parts, height, width) {
	for (const part of parts) {
		part.free = part.left > 0 && part.top > 0 && part.right < width && part.bottom < height;
	}
	const weight = ({ ink, free }) => ink * (free ? 4 : 1);
	const main = parts.reduce((best, part) => weight(part) > weight(best) ? part : best);
	const reach = NEAR * max(main.right - main.left, main.bottom - main.top);
	for (const part of parts) {
		const gap = max(main.left - part.right, part.left - main.right,
			main.top - part.bottom, part.top - main.bottom);
		part.kept = gap <= reach && part.ink >= PART * main.ink && (part.free || !main.free);
	}
}

// Runs of pixels over the threshold, each with the root of its 8-connected component, by union-find.
function runsOf(height, width, data, threshold) {
	const runs = [];
	for (let row = 0; row < height; row++) {
		for (let x = 0; x < width; x++) {
			if (!(data[row * width + x] > threshold)) continue;
			const start = x;
			while (x < width && data[row * width + x] > threshold) x++;
			runs.push({ row, start, end: x, root: runs.length });
		}
	}
	const root = (run) => {
		while (runs[run].root !== run) run = runs[run].root = runs[runs[run].root].root;
		return run;
	};
	let above = 0;
	runs.forEach(({ row, start, end }, run) => {
		while (runs[above].row < row - 1 || (runs[above].row < row && runs[above].end < start)) above++;
		for (let other = above; runs[other].row === row - 1 && runs[other].start <= end; other++) {
			runs[root(run)].root = root(other);
		}
	});
	runs.forEach((run, i) => { run.root = root(i); });
	return runs;
}

// Arrays

const clip = (value, low, high) => min(max(value, low), high);

// To the nearest integer, halves to the even one.
function rint(value) {
	const below = floor(value), rest = value - below;
	return rest > 0.5 || (rest === 0.5 && below % 2) ? below + 1 : below;
}

const grid = (height, width, Kind = Float32Array) => ({ height, width, data: new Kind(height * width) });

function map({ height, width, data }, change, Kind = Float32Array) {
	const result = grid(height, width, Kind);
	for (let i = 0; i < data.length; i++) result.data[i] = change(data[i], i);
	return result;
}

function each({ height, width, data }, visit) {
	for (let y = 0, i = 0; y < height; y++) for (let x = 0; x < width; x++, i++) visit(data[i], y, x, i);
}

function transpose({ height, width, data }) {
	const turned = grid(width, height, data.constructor);
	for (let y = 0; y < height; y++) {
		for (let x = 0; x < width; x++) turned.data[x * height + y] = data[y * width + x];
	}
	return turned;
}

function crop({ width, data }, [left, top, right, bottom]) {
	const part = grid(bottom - top, right - left, data.constructor);
	for (let y = top; y < bottom; y++) {
		part.data.set(data.subarray(y * width + left, y * width + right), (y - top) * part.width);
	}
	return part;
}

// A margin of zeros, or (`edge`) of repeated edges.
function pad({ height, width, data }, margin, edge) {
	const wide = grid(height + 2 * margin, width + 2 * margin, data.constructor);
	for (let y = 0; y < wide.height; y++) {
		const row = clip(y - margin, 0, height - 1), start = y * wide.width;
		if (!edge && row !== y - margin) continue;
		const values = data.subarray(row * width, (row + 1) * width);
		if (edge) {
			wide.data.fill(values[0], start, start + margin);
			wide.data.fill(values[width - 1], start + margin, start + wide.width);
		}
		wide.data.set(values, start + margin);
	}
	return wide;
}

// `mix` of each three successive values, down and then across.
function threes(values, mix) {
	for (let turn = 0; turn < 2; turn++) {
		const { height, width, data } = values;
		values = transpose(map(grid(height - 2, width), (_, i) => mix(data[i], data[i + width], data[i + 2 * width])));
	}
	return values;
}

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

// The values where the mask has `wanted`.
function where(values, mask, wanted) {
	const found = new Float32Array(values.length);
	let count = 0;
	for (let i = 0; i < values.length; i++) if (mask[i] === wanted) found[count++] = values[i];
	return found.subarray(0, count);
}

// Percentiles with linear interpolation, as NumPy's.
function percentiles(values, ...shares) {
	const copy = values.slice();
	return shares.map((share) => {
		const place = share / 100 * (copy.length - 1), below = floor(place);
		const low = select(copy, below), high = select(copy, min(below + 1, copy.length - 1));
		return low + (high - low) * (place - below);
	});
}

// The value of this rank, by quickselect; reorders `values`.
function select(values, rank) {
	let low = 0, high = values.length - 1;
	while (low < high) {
		const pivot = values[(low + high) >> 1];
		let i = low, j = high;
		while (i <= j) {
			while (values[i] < pivot) i++;
			while (values[j] > pivot) j--;
			if (i <= j) { const value = values[i]; values[i++] = values[j]; values[j--] = value; }
		}
		if (rank <= j) high = j;
		else if (rank >= i) low = i;
		else break;
	}
	return values[rank];
}
