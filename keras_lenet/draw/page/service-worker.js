// Keeps the static page for use without a network: what it always needs at once, and the LiteRT.js
// variant that this browser takes when it is fetched. Version and files are filled in when the
// folder is written; new contents make a new worker, which begins afresh.

const CACHE = "keras-lenet " + "VERSION";
const FILES = ["FILES"];

addEventListener("install", (event) => {
	event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(FILES.map((file) => new Request(file, { cache: "reload" })))));
	skipWaiting();
});

addEventListener("activate", (event) => {
	event.waitUntil(caches.keys()
		.then((names) => Promise.all(names.filter((name) => name.startsWith("keras-lenet ") && name !== CACHE).map((name) => caches.delete(name))))
		.then(() => clients.claim()));
});

addEventListener("fetch", (event) => {
	const { method, url } = event.request;
	if (method === "GET" && url.startsWith(registration.scope)) event.respondWith(fromCache(event.request));
});

async function fromCache(request) {
	const cache = await caches.open(CACHE), kept = await cache.match(request, { ignoreSearch: true });
	if (kept) return kept;
	const response = await fetch(request);
	if (response.ok) await cache.put(request, response.clone());
	return response;
}
