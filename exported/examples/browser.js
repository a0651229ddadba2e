// Classify 28 rows of 28 pixels in a browser.
// npm install @litertjs/core, bundle this module, and serve LiteRT.js's wasm folder and
// lenet5_uint8.tflite beside it. The threshold is in manifest.json.

import { loadAndCompile, loadLiteRt, Tensor } from "@litertjs/core";

// Return a classifier; the arguments are URLs and the file's threshold.
export async function openClassifier(wasm, file, threshold) {
	await loadLiteRt(wasm);
	const model = await loadAndCompile(file, { accelerator: "wasm" });

	// Return the digit, or null for "no digit". Pixels: Uint8Array(784), 0 = background, 255 = ink.
	return async function classify(pixels) {
		const input = new Tensor(pixels, [1, 28, 28, 1]);
		const [output] = await model.run(input);
		const scores = await output.data();
		input.delete();
		output.delete();
		const digit = scores.indexOf(Math.max(...scores));
		return scores[digit] / 256 >= threshold ? digit : null;
	};
}
