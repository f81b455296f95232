// Opens the chat page while the server is away. The network comes first, so that no page of before hides the login or a
// newer page. The page's files are kept as one set, each checked, and a page gets all of its files from one set or all
// from the network: never some of one version and some of another.
//
// The server writes one line above this: const EDITION = {version, digests: SHA-256 of each of our files by its path}.

const SETS = "nanochat-files-";
const SET = SETS + EDITION.version;
const PAGES = "nanochat-pages"; // which open page has its files from which set: this script may be ended at any time
const PATIENCE = 4000; // ms for the server to answer
const AWAY = [502, 503, 504]; // of a proxy before a server that is away

const worker = /** @type {ServiceWorkerGlobalScope} */ (/** @type {unknown} */ (self));

/**
 * The same for this script's life, so that most files are decided on at once. Null: from the network.
 * @type {Map<string, string | null>}
 */
const setOf = new Map();

worker.addEventListener("install", (event) => {
  event.waitUntil(takeIn().then(() => worker.skipWaiting()));
});
worker.addEventListener("activate", (event) => event.waitUntil(tidy()));
worker.addEventListener("fetch", (event) => {
  const { request, clientId } = event;
  const { origin, pathname } = new URL(request.url);
  if (request.method !== "GET" || origin !== location.origin) return;
  if (request.mode === "navigate") {
    if (pathname === "/") event.respondWith(page(event));
  } else if (pathname.startsWith("/static/") && clientId && setOf.get(clientId) !== null) {
    event.respondWith(file(request, clientId));
  }
});

/** Keeps all files of this edition, or fails, and then the worker of before stays. */
async function takeIn() {
  const files = await Promise.all(
    Object.entries(EDITION.digests).map(async ([path, digest]) => ({ path, response: await taken(path, digest) })),
  );
  const set = await caches.open(SET);
  try {
    await Promise.all(files.map(({ path, response }) => set.put(path, response)));
  } catch (error) {
    await caches.delete(SET); // no room
    throw error;
  }
}

/**
 * @param {string} path
 * @param {string} digest
 */
async function taken(path, digest) {
  const response = await fetch(path, { cache: "no-cache" });
  if (response.status !== 200 || response.redirected) throw new Error(`${path}: ${response.status}`);
  const body = await response.arrayBuffer();
  const sum = new Uint8Array(await crypto.subtle.digest("SHA-256", body));
  const hex = Array.from(sum, (byte) => byte.toString(16).padStart(2, "0")).join("");
  if (hex !== digest) throw new Error(`${path} is of another version`);
  const headers = new Headers(response.headers);
  for (const name of ["content-encoding", "content-length"]) headers.delete(name); // it is unpacked by now
  return new Response(body, { headers });
}

/** @param {FetchEvent} event */
async function page(event) {
  const id = event.resultingClientId;
  const late = /** @type {Promise<null>} */ (new Promise((resolve) => setTimeout(resolve, PATIENCE, null)));
  const asked = fetch(event.request);
  const response = await Promise.race([asked, late]).catch(() => null);
  if (response && !AWAY.includes(response.status)) {
    await remember(id, response.headers.get("x-nanochat-files") === EDITION.version ? SET : null);
    return response; // the login page, too, and whatever else the server says
  }
  const kept = await (await caches.open(SET)).match("/");
  if (!kept) return asked;
  await remember(id, SET);
  event.waitUntil(asked.catch(() => {}));
  return kept;
}

/**
 * @param {Request} request
 * @param {string} id of the page that asks
 */
async function file(request, id) {
  if (!setOf.has(id)) setOf.set(id, (await recalled(id)) ?? null);
  const name = setOf.get(id) ?? null;
  const kept = name !== null && (await (await caches.open(name)).match(request, { ignoreVary: true }));
  return kept || fetch(request);
}

/** @param {string} id */
const keyOf = (id) => `/page/${id}`;

/** @param {string} id */
async function recalled(id) {
  const kept = await (await caches.open(PAGES)).match(keyOf(id));
  return kept?.text();
}

/**
 * @param {string} id
 * @param {string | null} name
 */
async function remember(id, name) {
  setOf.set(id, name);
  if (name !== null) await (await caches.open(PAGES)).put(keyOf(id), new Response(name)).catch(() => {}); // no room
}

/** Sets stay for as long as a page that was made of them is open. */
async function tidy() {
  const open = new Set((await worker.clients.matchAll({ includeUncontrolled: true })).map((client) => keyOf(client.id)));
  const pages = await caches.open(PAGES);
  const used = new Set([SET]);
  for (const request of await pages.keys()) {
    if (!open.has(new URL(request.url).pathname)) await pages.delete(request);
    else used.add((await (await pages.match(request))?.text()) ?? SET);
  }
  for (const name of await caches.keys()) if (name.startsWith(SETS) && !used.has(name)) await caches.delete(name);
}
