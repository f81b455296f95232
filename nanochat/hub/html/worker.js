// The worker that holds the model: it answers one question after another.

import { answer } from "./answering.js";
import { Damaged, createLoading } from "./loading.js";

/**
 * @typedef {import("./protocol.js").ToWorker} ToWorker
 * @typedef {import("./protocol.js").FromWorker} FromWorker
 */

/** @type {ReturnType<typeof createLoading> | null} */
let loading = null;
/** @type {import("./loading.js").Loaded | null} */
let loaded = null;
let block = 0, began = 0;
/** @type {Set<string>} questions whose answers are not wanted any more, or not yet */
const stopped = new Set();
/** @type {Promise<void>} */
let work = Promise.resolve();

/** @param {FromWorker} message */
const say = (message) => postMessage(message);

// A timer would wait for some milliseconds each time.
const channel = new MessageChannel();
const pause = () =>
  /** @type {Promise<void>} */ (
    new Promise((resolve) => {
      channel.port1.onmessage = () => resolve();
      channel.port2.postMessage(null);
    })
  );

addEventListener("message", ({ data }) => {
  const message = /** @type {ToWorker} */ (data);
  if (message.type === "stop") stopped.add(message.id);
  else if (message.type === "count") count(message);
  else if (message.type === "texts") texts(message);
  else work = work.then(() => take(message)).catch(failed);
});

/** @param {Exclude<ToWorker, {type: "stop" | "count" | "texts"}>} message */
async function take(message) {
  if (message.type === "load") {
    began = performance.now();
    loading = createLoading(message.header);
    say({ type: "wanted", block: 0 });
  } else if (message.type === "block" && loading) {
    if (!(await loading.take(message.text))) return say({ type: "wanted", block: ++block });
    loaded = loading.finish();
    loading = null;
    say({ type: "ready", seconds: (performance.now() - began) / 1000 });
  } else if (message.type === "ask" && loaded) {
    const { id } = message.ask;
    await answer(loaded, message.ask, say, pause, () => stopped.has(id));
    stopped.delete(id);
  }
}

/** @param {{id: string, text: string}} message */
function count({ id, text }) {
  if (loaded) say({ type: "count", id, tokens: loaded.tokenizer.encode(text).length, window: loaded.model.sizes.window });
}

/** @param {{id: string, ids: number[]}} message */
function texts({ id, ids }) {
  if (!loaded) return;
  const { tokenizer } = loaded, { feed } = tokenizer.stream();
  say({ type: "texts", id, texts: ids.map((one) => (tokenizer.specials.includes(one) ? tokenizer.textOf(one) : feed(one))) });
}

/** @param {unknown} error */
function failed(error) {
  loading = null;
  const memory = error instanceof RangeError, words = error instanceof Error ? error.message : String(error);
  say({ type: "broken", error: memory ? "there is too little memory for it" : words, file: error instanceof Damaged });
}
