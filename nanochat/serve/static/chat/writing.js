// What is being written: remembered until it is sent, and counted when it is long.

/**
 * @typedef {import("./state.js").State} State
 * @typedef {{get: () => State, set: (change: Partial<State>) => void}} Store
 */

const LONG = 1000; // characters from which on it is asked how much of a text the model sees
const REST = 300; // ms without a key before it is counted and remembered

/**
 * @param {Store} store
 * @param {{draftOf: (conversation: string) => string, keepDraft: (conversation: string, text: string) => void}} drafts
 *   of each conversation, "" for a new one
 * @param {(text: string, model: string | null) => Promise<import("./state.js").Counted>} counted
 */
export function createWriting(store, { draftOf, keepDraft }, counted) {
  /** @type {number | undefined} */
  let timer;
  /** @type {(() => void) | null} */
  let waiting = null;

  /** A new conversation has no name yet that its draft could be remembered by. */
  function key() {
    const { open, current } = store.get();
    return open[current]?.leaf === null ? "" : current;
  }

  function settle() {
    clearTimeout(timer);
    const act = waiting;
    waiting = null;
    act?.();
  }

  addEventListener("pagehide", settle);

  return {
    /** What was written in the conversation that is shown. */
    draft: () => draftOf(key()),

    /** Before another conversation is shown: what was written belongs to this one. */
    settle,

    /** @param {string} text what stands in the field now */
    changed(text) {
      const conversation = key();
      clearTimeout(timer);
      waiting = () => {
        keepDraft(conversation, text);
        if (text.length >= LONG && key() === conversation) count(text);
      };
      timer = window.setTimeout(settle, REST);
      if (text.length < LONG && store.get().counted) store.set({ counted: null });
    },

    /** It was sent from the conversation with this draft. */
    sent() {
      clearTimeout(timer);
      waiting = null;
      keepDraft("", "");
      keepDraft(store.get().current, "");
      store.set({ counted: null });
    },
  };

  /** @param {string} text */
  async function count(text) {
    const { chosen, current } = store.get();
    const told = await counted(text, chosen);
    if (!waiting && store.get().current === current) store.set({ counted: told });
  }
}
