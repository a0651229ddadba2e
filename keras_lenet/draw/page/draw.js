// The page: strokes through `prepare`, or a photo, to an engine, to what is shown. `engine.js` is the
// server in one place and LiteRT.js in the other; all else is the same in both. The server alone
// takes photos.

import { classify, classifyPhoto, open } from "./engine.js";
import { prepare } from "./prepare.js";

const SIZE = 28; // side of what the model sees
const PAGE = 200; // side of the picture that strokes are drawn to for `prepare`, on any screen
const MAX_PHOTO = 8 << 20; // bytes that the server takes
const SPOKEN_AFTER = 700; // ms without a change

const find = (id) => document.getElementById(id);
const paper = find("paper"), screen = paper.getContext("2d");
const seen = find("seen").getContext("2d");
const picture = new OffscreenCanvas(PAGE, PAGE).getContext("2d", { willReadFrequently: true });

let strokes = []; // each {width, points: [[x, y], …]}, in parts of the side
let photo = null; // {bitmap, file} instead of strokes
let pen = null; // where the keyboard's pen is, {x, y, down}
let model = null, changed = false, busy = false, speaking = 0;

const bars = Array.from({ length: 10 }, (_, digit) => {
	const bar = document.createElement("li");
	const [name, track, value] = ["b", "i", "span"].map((tag) => bar.appendChild(document.createElement(tag)));
	name.textContent = digit;
	find("bars").append(bar);
	return { bar, track, value };
});

// Drawing

function trace(context, side, colour) {
	context.lineCap = context.lineJoin = "round";
	context.strokeStyle = colour;
	for (const { width, points } of strokes) {
		context.lineWidth = width * side;
		context.beginPath();
		context.moveTo(points[0][0] * side, points[0][1] * side + 0.01); // no line of length 0, as of a tap, is drawn
		for (const [x, y] of points) context.lineTo(x * side, y * side);
		context.stroke();
	}
}

function redraw() {
	const side = Math.round(paper.clientWidth * devicePixelRatio), style = getComputedStyle(paper);
	if (paper.width !== side) paper.width = paper.height = side;
	screen.clearRect(0, 0, side, side);
	if (photo) {
		const { width, height } = photo.bitmap, scale = side / Math.max(width, height);
		const [w, h] = [width * scale, height * scale];
		screen.drawImage(photo.bitmap, (side - w) / 2, (side - h) / 2, w, h);
	}
	trace(screen, side, style.color);
	if (pen) {
		screen.strokeStyle = style.getPropertyValue("--strong");
		screen.lineWidth = (pen.down ? 4 : 2) * devicePixelRatio;
		screen.beginPath();
		screen.arc(pen.x * side, pen.y * side, 8 * devicePixelRatio, 0, 7);
		screen.stroke();
	}
	find("undo").disabled = find("clear").disabled = !strokes.length && !photo;
}

function change() {
	changed = true;
	redraw();
	answer();
}

function begin(x, y) {
	photo = null;
	strokes.push({ width: find("width").value / 100, points: [[x, y]] });
	change();
}

function extend(...points) {
	strokes.at(-1).points.push(...points);
	change();
}

function undo() {
	if (photo) photo = null;
	else strokes.pop();
	if (pen) pen.down = false;
	change();
}

function clear() {
	strokes = [];
	photo = null;
	if (pen) pen.down = false;
	change();
}

function place({ clientX, clientY }) {
	const { left, top, width } = paper.getBoundingClientRect();
	return [(clientX - left) / width, (clientY - top) / width];
}

let drawing = null; // the pointer that draws; another finger meanwhile does not
paper.addEventListener("pointerdown", (event) => {
	if (drawing !== null || event.button) return;
	drawing = event.pointerId;
	paper.setPointerCapture(drawing);
	pen = null;
	begin(...place(event));
});
paper.addEventListener("pointermove", (event) => {
	if (event.pointerId !== drawing) return;
	const events = event.getCoalescedEvents?.() ?? [];
	extend(...(events.length ? events : [event]).map(place));
});
for (const end of ["pointerup", "pointercancel"]) {
	paper.addEventListener(end, (event) => { if (event.pointerId === drawing) drawing = null; });
}

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
paper.addEventListener("keydown", (event) => {
	const arrow = ARROWS[event.key];
	if (event.ctrlKey || event.metaKey || event.altKey || drawing !== null) return;
	if (arrow) {
		pen ??= { x: 0.5, y: 0.5, down: false };
		const step = event.shiftKey ? 0.01 : 0.05;
		[pen.x, pen.y] = [pen.x + step * arrow[0], pen.y + step * arrow[1]].map((at) => Math.min(Math.max(at, 0), 1));
		if (pen.down) extend([pen.x, pen.y]);
		else redraw();
	} else if (event.key === " ") {
		pen ??= { x: 0.5, y: 0.5, down: false };
		pen.down = !pen.down;
		if (pen.down) { begin(pen.x, pen.y); speak("pen down"); }
		else change(); // lifting the pen says the answer again
	} else if (event.key === "Backspace") undo();
	else if (event.key === "Delete") clear();
	else return;
	event.preventDefault();
});
paper.addEventListener("blur", () => { pen = null; redraw(); });
addEventListener("keydown", (event) => {
	if (event.key === "z" && (event.ctrlKey || event.metaKey)) { undo(); event.preventDefault(); }
});
find("undo").addEventListener("click", undo);
find("clear").addEventListener("click", clear);

find("photo").addEventListener("change", async ({ target }) => {
	const [file] = target.files;
	target.value = ""; // the same file may be chosen again
	if (!file) return;
	if (file.size > MAX_PHOTO) return fail("This photo is larger than 8 MiB.");
	try {
		const bitmap = await createImageBitmap(file);
		clear();
		photo = { bitmap, file };
		change();
	} catch {
		fail("This file is no picture that the browser can read.");
	}
});

// Answering

// The strokes, prepared and classified.
async function classifyDrawing() {
	const start = performance.now();
	picture.clearRect(0, 0, PAGE, PAGE);
	trace(picture, PAGE, "#000");
	const { data } = picture.getImageData(0, 0, PAGE, PAGE);
	const ink = Uint8Array.from({ length: PAGE * PAGE }, (_, i) => data[4 * i + 3]);
	const prepared = { ...prepare({ width: PAGE, height: PAGE, ink }), milliseconds: performance.now() - start };
	return [prepared, prepared.found ? await classify(prepared.image) : null];
}

// Answer the newest state of the page, one at a time.
async function answer() {
	if (busy || !model) return;
	busy = true;
	document.body.ariaBusy = "true";
	while (changed) {
		changed = false;
		if (!strokes.length && !photo) { idle(); continue; }
		try {
			show(...await (photo ? classifyPhoto(photo.file) : classifyDrawing()));
		} catch (error) {
			fail(error.message);
		}
	}
	busy = false;
	document.body.ariaBusy = null;
}

function show({ image, milliseconds }, result) {
	const probabilities = result?.probabilities ?? Array(10).fill(0);
	const best = probabilities.indexOf(Math.max(...probabilities)); // of digits that tie the lowest, as in Python
	const accepted = result && probabilities[best] >= model.threshold;
	const share = result && percent(probabilities[best]);
	const verdict = accepted ? `${share} sure` : "No digit";
	const unclear = result ? `none that is clear: at best ${best}, ${share}` : "nothing stands out as ink";
	tell(accepted ? best : "–", verdict, accepted ? "" : unclear);
	document.body.dataset.digit = accepted ? best : "none";
	draw(image);
	bars.forEach(({ bar, track, value }, digit) => {
		bar.className = accepted && digit === best ? "best" : "";
		track.style.setProperty("--p", probabilities[digit]);
		value.textContent = percent(probabilities[digit]);
	});
	find("digit").className = accepted ? "" : "none";
	const times = result ? `, classified in ${result.milliseconds.toFixed(2)} ms` : "";
	find("model").textContent = `${about()}; prepared in ${milliseconds.toFixed(0)} ms${times}`;
	speak(accepted ? `${best}, ${verdict}` : `${verdict}: ${unclear}`);
}

function idle() {
	tell("–", "Draw in the square", classifyPhoto ? "or choose a photo of a digit" : "this page takes drawings alone; keras-lenet draw takes photos");
	find("digit").className = "none";
	document.body.dataset.digit = "";
	draw(new Uint8Array(SIZE * SIZE));
	for (const { bar, track, value } of bars) {
		bar.className = "";
		track.style.setProperty("--p", 0);
		value.textContent = percent(0);
	}
	find("model").textContent = about();
}

function fail(message) {
	tell("–", "No answer", message);
	document.body.dataset.digit = "";
	speak(message);
}

function tell(digit, verdict, note) {
	find("digit").textContent = digit;
	find("verdict").textContent = verdict;
	find("note").textContent = note;
}

function draw(image) {
	const pixels = seen.createImageData(SIZE, SIZE);
	image.forEach((level, i) => pixels.data.set([level, level, level, 255], 4 * i));
	seen.putImageData(pixels, 0, 0);
}

const percent = (value) => `${(100 * value).toFixed(value > 0.9995 || value < 0.0005 ? 0 : 1)} %`;
const about = () => `${model.name}, ${(model.bytes / 1000).toFixed(1)} kB, ${model.runtime}`;

function speak(message) {
	clearTimeout(speaking);
	speaking = setTimeout(() => { find("spoken").textContent = message; }, SPOKEN_AFTER);
}

if (!classifyPhoto) find("photo").parentElement.remove();
new ResizeObserver(redraw).observe(paper);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
try {
	model = await open();
	changed = true;
	answer();
} catch (error) {
	fail(error.message);
}
