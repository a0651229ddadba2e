// The engine of the static page: LiteRT.js runs the uint8 .tflite in this browser.

import { loadAndCompile, loadLiteRt, Tensor } from "./litert/core.js";

export const classifyPhoto = null; // photos need the server's OpenCV

let model, scale, zero;

export async function open() {
	await keep();
	const description = await (await fetch("model.json")).json();
	await loadLiteRt(new URL("litert/wasm/", document.baseURI).href);
	model = await loadAndCompile(new URL(description.name, document.baseURI).href, { accelerator: "wasm" });
	({ scale, zero_point: zero } = description.output);
	return { ...description, runtime: "LiteRT.js in this browser" };
}

// 784 pixels to {probabilities, milliseconds}.
export async function classify(pixels) {
	const start = performance.now(), input = new Tensor(pixels, [1, 28, 28, 1]);
	const [output] = await model.run(input);
	const probabilities = Array.from(await output.data(), (value) => (value - zero) * scale);
	input.delete();
	output.delete();
	return { probabilities, milliseconds: performance.now() - start };
}

// Wait a moment for the service worker, which keeps what is fetched from here on. Browsers have none
// outside of https and localhost; the page then works online alone.
async function keep() {
	const workers = navigator.serviceWorker;
	if (!workers || workers.controller) return;
	const ready = new Promise((resolve) => { workers.oncontrollerchange = resolve; setTimeout(resolve, 3000); });
	await workers.register("service-worker.js").then(() => ready, console.warn);
}
