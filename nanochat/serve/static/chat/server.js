// How the server is: asked at first, now and then, and whenever something did not reach it.

/**
 * @typedef {import("./state.js").State} State
 * @typedef {import("./state.js").Server} Server
 * @typedef {{get: () => State, set: (change: Partial<State>) => void}} Store
 */

const EVERY = 20_000; // ms between looks while it is well
const AWAY = 3000; // ms while it is not, or has not told its models

/**
 * Keeps `server` up to date. Gives what looks again at once.
 * @param {Store} store
 * @param {() => Promise<void>} onReady it is there, or there again, or its models are not known yet
 */
export function watchServer(store, onReady) {
  /** @type {number | undefined} */
  let timer;
  let looks = 0;
  let telling = false; // onReady has not ended

  async function look() {
    clearTimeout(timer);
    const mine = ++looks;
    const before = store.get().server;
    const server = await asked(before);
    if (mine !== looks) return; // another look has begun
    if (JSON.stringify(server) !== JSON.stringify(before)) store.set({ server });
    const well = server.phase === "ready" && store.get().models.length > 0;
    if (server.phase === "ready" && !telling && (before.phase !== "ready" || !well)) {
      telling = true;
      void onReady().finally(() => (telling = false));
    }
    if (!document.hidden) timer = window.setTimeout(look, well ? EVERY : AWAY);
  }

  document.addEventListener("visibilitychange", () => document.hidden || look());
  addEventListener("online", look);
  addEventListener("offline", look);
  return look;
}

/**
 * @param {Server} before
 * @returns {Promise<Server>}
 */
async function asked(before) {
  try {
    const answer = await fetch("/health", { signal: AbortSignal.timeout(10_000) });
    const told = await answer.json();
    if (answer.status === 503 && told.status === "draining") return { ...before, phase: "ending" };
    if (!answer.ok) return { ...before, phase: "gone" };
    if (!told.model) return { ...before, phase: "login" };
    const { stage, tag, step, parameters } = told.model;
    const model = { stage: String(stage), tag: String(tag), step: Number(step), parameters: Number(parameters) };
    return { phase: "ready", model, defaults: { ...told.defaults } };
  } catch {
    return { ...before, phase: "gone" };
  }
}

/**
 * How much of a text a model would see.
 * @param {string} text
 * @param {string | null} model
 * @returns {Promise<import("./state.js").Counted>}
 */
export async function counted(text, model) {
  try {
    const answer = await fetch("/page/count", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ model, text }),
    });
    const told = await answer.json();
    if (answer.ok) return { tokens: Number(told.tokens), window: Number(told.window) };
    return typeof told.detail === "string" && answer.status !== 404 ? { problem: told.detail } : null;
  } catch {
    return null; // it is not known then
  }
}
