// The engine of the page that `keras-lenet draw` serves: the server's own LiteRT.

export async function open() {
	return { ...await read(fetch("model.json")), runtime: "LiteRT on the server" };
}

// 784 pixels to {probabilities, milliseconds}.
export async function classify(pixels) {
	const body = JSON.stringify({ pixels: [...pixels] }), headers = { "Content-Type": "application/json" };
	const { probabilities, milliseconds } = await read(fetch("classify", { method: "POST", headers, body }));
	return { probabilities, milliseconds: milliseconds.inference };
}

// A picture file to the image that the model saw and the time that it took, and as `classify` to the
// rest; null where the server found no digit.
export async function classifyPhoto(file) {
	const headers = { "Content-Type": file.type.startsWith("image/") ? file.type : "image/unknown" };
	const answer = await read(fetch("classify", { method: "POST", headers, body: file }));
	const { digit, pixels, probabilities, milliseconds } = answer;
	const prepared = { image: pixels, milliseconds: milliseconds.preparation };
	return [prepared, digit === null ? null : { probabilities, milliseconds: milliseconds.inference }];
}

async function read(request) {
	const response = await request.catch(() => { throw new Error("The server does not answer. Is it still running?"); });
	const content = await response.json();
	if (!response.ok) throw new Error(content.error);
	return content;
}
