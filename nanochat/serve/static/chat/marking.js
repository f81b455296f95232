// Marks and corrections of answers: shown at once, and kept by the server.

import { asked } from "./asked.js";
import { withNode } from "./tree.js";

/**
 * @typedef {import("./state.js").State} State
 * @typedef {import("./tree.js").Conversation} Conversation
 * @typedef {import("./tree.js").Node} Node
 * @typedef {Pick<Node, "rating" | "correction">} Mark
 * @typedef {{get: () => State, set: (change: Partial<State>) => void}} Store
 * @typedef {{node: string, kept: import("./feedback.js").Kept | string}} Marked
 */

/**
 * @param {Store} store
 * @param {(c: Conversation) => Promise<void>} keep
 */
export function createMarking(store, keep) {
  /** @type {Map<string, Promise<void>>} */
  const sending = new Map(); // by node: what was said last is sent last
  let newest = 0;

  /**
   * @param {string} conversation
   * @param {string} id
   * @param {Mark} mark
   */
  function put(conversation, id, { rating, correction }) {
    const { open } = store.get();
    const node = open[conversation]?.nodes[id];
    if (!node) return;
    const { rating: _, correction: __, ...rest } = node;
    const marked = { ...rest, ...(rating && { rating }), ...(correction !== undefined && { correction }) };
    const c = withNode(open[conversation], marked);
    store.set({ open: { ...open, [conversation]: c } });
    void keep(c);
  }

  /**
   * @param {string} id
   * @param {Mark} mark
   */
  async function mark(id, mark) {
    const { open, current } = store.get();
    const before = open[current]?.nodes[id];
    if (!before) return;
    const mine = ++newest;
    const { start: _, ...said } = before; // also what a model that only continues text said is an answer
    const { system, messages, model } = asked(open[current], said, before.model ?? null, true).request;
    const answer = { role: "assistant", content: before.parts.filter((part) => part.text) };
    const body = { id, model, system, messages: [...messages, answer], rating: mark.rating ?? null, correction: mark.correction ?? null };
    put(current, id, mark);
    const told = (sending.get(id) ?? Promise.resolve()).then(async () => {
      try {
        const kept = await sent(body);
        if (mine === newest) store.set({ marked: { node: id, kept } });
      } catch (error) {
        if (sending.get(id) === told) put(current, id, before); // it is not kept, so it is not shown as if it were
        const words = error instanceof TypeError ? "The server did not answer, so this may not be kept: mark it again." : String(Object(error).message);
        store.set({ marked: { node: id, kept: words } });
      }
    });
    sending.set(id, told);
    await told;
    if (sending.get(id) === told) sending.delete(id);
  }

  /** @param {string} id */
  const markOf = (id) => {
    const { rating, correction } = store.get().open[store.get().current]?.nodes[id] ?? {};
    return { rating, correction };
  };

  return {
    /**
     * @param {string} id of an answer
     * @param {"good" | "bad" | null} rating
     */
    rate: (id, rating) => mark(id, { ...markOf(id), rating: rating ?? undefined }),

    /**
     * @param {string} id
     * @param {string} correction
     */
    correct: (id, correction) => mark(id, { ...markOf(id), correction }),

    /** @param {string} id */
    takeBack: (id) => mark(id, {}),
  };
}

/**
 * @param {unknown} body
 * @returns {Promise<import("./feedback.js").Kept>}
 */
async function sent(body) {
  const request = { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  const answer = await fetch("/page/feedback", request);
  const told = await answer.json().catch(() => null);
  if (answer.ok && typeof told?.path === "string" && Array.isArray(told.commands)) return told;
  throw new Error(typeof told?.detail === "string" ? told.detail : `The server answered ${answer.status}, so this is not kept.`);
}
