// The conversations of this page, kept until it is closed: one is shown, the others are behind the browser's Back.

import { modeOf } from "../../serve/static/chat/state.js";
import { newConversation } from "../../serve/static/chat/tree.js";

/**
 * @typedef {import("../../serve/static/chat/state.js").State} State
 * @typedef {import("../../serve/static/chat/tree.js").Conversation} Conversation
 */

/** @param {{get: () => State, set: (change: Partial<State>) => void}} store */
export function createTalks(store) {
  /** @type {Map<string, Conversation>} */
  const kept = new Map();
  let first = ""; // which the address names without a word

  const made = () => newConversation(store.get().system, modeOf(store.get()));

  /**
   * @param {Conversation} c
   * @param {string} [notice]
   */
  function show(c, notice = "") {
    const open = { ...store.get().open, [c.id]: c };
    store.set({ open, current: c.id, editing: null, looking: null, counted: null, notice });
  }

  addEventListener("hashchange", () => {
    const id = location.hash.slice(1), { open, current } = store.get();
    const c = kept.has(id) ? id : first;
    const found = open[c] ?? kept.get(c);
    if (c !== current && found) show(found);
  });

  return {
    /** @param {Conversation} c */
    keep: (c) => void kept.set(c.id, c),

    start() {
      const c = made();
      first = c.id;
      kept.set(c.id, c);
      show(c);
    },

    newChat() {
      const { open, current } = store.get();
      if (open[current].leaf === null) return show({ ...made(), id: current });
      const c = made();
      kept.set(c.id, c);
      show(c, "The browser's Back leads to the conversation before.");
      location.hash = c.id;
    },
  };
}
