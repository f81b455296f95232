// The answers that are on their way, in however many conversations: from who answers into the store, and kept.

import { asked } from "./asked.js";
import { Refused, pause } from "./refused.js";
import { canChat } from "./state.js";
import { newId, partsOf, withNode } from "./tree.js";

/**
 * @typedef {import("./state.js").State} State
 * @typedef {import("./state.js").Phase} Phase
 * @typedef {import("./tree.js").Conversation} Conversation
 * @typedef {import("./tree.js").Node} Node
 * @typedef {import("./tree.js").Token} Token
 * @typedef {import("./tree.js").End} End
 * @typedef {import("./answering.js").Reader} Reader
 * @typedef {{get: () => State, set: (change: Partial<State>) => void}} Store
 * @typedef {{
 *   ask: (asked: import("./answering.js").Asked, reader: Reader) => Promise<void>,
 *   stop: (id: string) => unknown,
 *   resume?: (id: string, after: number, reader: Reader) => Promise<void>
 * }} Answers
 *   who answers. ask, resume: read to the answer's end, as answering.js does; resume: absent where an answer ends with its page
 */

const FRAME = 33; // ms: what comes within is shown at once
const GRACE = 1000; // ms that a stopped answer has to tell its end

/**
 * @param {Store} store
 * @param {Answers} answers
 * @param {{now: (conversation: Conversation) => Promise<void>, soon: (conversation: Conversation) => void}} keep
 * @param {(refused: Refused) => void} onRefused
 * @param {() => void} onLost who answers is not heard any more
 */
export function createRunning(store, answers, keep, onRefused, onLost) {
  /** @type {Map<string, AbortController>} */
  const reading = new Map();
  /** @type {Map<string, () => void>} */
  const hurried = new Map();

  /**
   * The node as it is now; undefined when it, or its conversation, was deleted.
   * @param {string} conversation
   * @param {string} node
   * @returns {Node | undefined}
   */
  const nodeOf = (conversation, node) => store.get().open[conversation]?.nodes[node];

  /**
   * @param {string} conversation
   * @param {string} id
   * @param {Partial<Node>} change
   */
  function update(conversation, id, change) {
    const node = nodeOf(conversation, id);
    if (!node) return reading.get(id)?.abort();
    const { open } = store.get();
    const changed = { ...node, ...change };
    if (!changed.pending) delete changed.pending;
    if (!changed.end) delete changed.end;
    store.set({ open: { ...open, [conversation]: withNode(open[conversation], changed) } });
  }

  /**
   * @param {string} conversation
   * @param {string} id
   * @param {Phase} phase
   * @param {number | null} [again]
   */
  function show(conversation, id, phase, again = null) {
    const { running } = store.get();
    store.set({ running: { ...running, [id]: { conversation, phase, again } } });
  }

  /**
   * From now on it can be stopped.
   * @param {string} id
   */
  function controlled(id) {
    const controller = new AbortController();
    reading.set(id, controller);
    return controller;
  }

  /** @param {string} id it is not on its way any more */
  function over(id) {
    reading.delete(id);
    const { [id]: _, ...running } = store.get().running;
    store.set({ running });
  }

  /**
   * Reads an answer into its node until it ends.
   * @param {string} conversation
   * @param {string} id
   * @param {AbortController} controller
   * @param {(reader: Reader) => Promise<void>} read
   * @param {number} [leftOut] messages that were not even sent
   */
  async function follow(conversation, id, controller, read, leftOut = 0) {
    const begun = Date.now();
    /** @type {Token[]} */
    let tokens = nodeOf(conversation, id)?.tokens ?? [];
    /** @type {number | undefined} */
    let timer;
    const flush = () => {
      if (timer === undefined) return;
      clearTimeout(timer);
      timer = undefined;
      update(conversation, id, { tokens: [...tokens], parts: partsOf(tokens) });
      const { open } = store.get();
      if (open[conversation]) keep.soon(open[conversation]);
    };
    /** @type {End | null} */
    let end = null;
    const reader = {
      signal: controller.signal,
      onState(/** @type {Phase} */ phase) {
        show(conversation, id, phase);
        if (phase === "lost") onLost();
      },
      onStart(/** @type {import("./tree.js").Start} */ start) {
        flush();
        show(conversation, id, "writing");
        const node = nodeOf(conversation, id);
        if (!node || node.start?.id === start.id) return; // taken up again
        tokens = tokens.slice(0, start.begun);
        const told = { ...start, left_out: start.left_out + leftOut };
        update(conversation, id, { tokens, parts: partsOf(tokens), start: told, model: start.model });
      },
      onTokens(/** @type {Token[]} */ come) {
        tokens = tokens.concat(come);
        timer ??= window.setTimeout(flush, FRAME);
      },
      onEnd: (/** @type {End} */ told) => void (end = told),
    };
    try {
      await read(reader);
    } catch (error) {
      if (!controller.signal.aborted) {
        if (error instanceof Refused) onRefused(error);
        const words = error instanceof Refused ? error.message : `This page failed: ${error}`;
        end = { finish: "failed", error: words, tokens: 0, seconds: 0, first: null };
      }
    }
    flush();
    reading.delete(id);
    const seconds = (Date.now() - begun) / 1000;
    const told = end ?? { finish: "stopped", error: null, tokens: 0, seconds, first: null };
    update(conversation, id, { end: told, pending: undefined });
    ended(conversation, id, told);
  }

  /**
   * @param {string} conversation
   * @param {string} id
   * @param {End} end
   */
  function ended(conversation, id, end) {
    const { [id]: _, ...running } = store.get().running;
    const { open, current } = store.get();
    if (open[conversation]) keep.now(open[conversation]);
    const others = Object.values(running).some((one) => one.conversation === conversation);
    const { [conversation]: over, ...still } = open;
    const spoken = end.finish === "failed" ? "The answer failed." : "The answer is finished.";
    store.set({ running, ...(current === conversation ? { spoken } : !others && { open: still }) });
  }

  return {
    /**
     * Ask for the answer that belongs into a node, or for the rest of it.
     * @param {string} conversation
     * @param {string} id
     * @param {string | null} model
     */
    async begin(conversation, id, model) {
      const controller = controlled(id);
      show(conversation, id, "asking");
      store.set({ spoken: "" });
      update(conversation, id, { pending: newId(), end: undefined, settings: { ...store.get().settings } });
      await keep.now(store.get().open[conversation]); // first, so that a page that is reloaded finds the answer
      const node = nodeOf(conversation, id);
      if (!node) return over(id); // deleted meanwhile
      const { request, leftOut } = asked(store.get().open[conversation], node, model, canChat(store.get(), model));
      await follow(conversation, id, controller, async (reader) => {
        for (;;) {
          try {
            return await answers.ask(request, reader);
          } catch (error) {
            if (!(error instanceof Refused && error.after)) throw error;
            show(conversation, id, error.status === 429 ? "busy" : "ending", Date.now() + 1000 * error.after);
            const early = new AbortController();
            hurried.set(id, () => early.abort());
            await pause(1000 * error.after, reader.signal, early.signal).finally(() => hurried.delete(id));
            show(conversation, id, "asking");
          }
        }
      }, leftOut);
    },

    /**
     * Take up an answer that was begun by this page before it was reloaded, or by another tab.
     * @param {string} conversation
     * @param {Node} node
     */
    async resume(conversation, { id, pending, start, tokens = [] }) {
      const { resume } = answers;
      if (!pending || !resume || reading.has(id) || store.get().running[id]) return;
      show(conversation, id, "asking");
      const after = start?.id === pending ? tokens.length - start.begun : 0;
      await follow(conversation, id, controlled(id), (reader) => resume(pending, Math.max(0, after), reader));
    },

    /** @param {string} id asked for again at once, not only when its time has come */
    hurry: (id) => hurried.get(id)?.(),

    /** @param {string} id */
    async stop(id) {
      const one = store.get().running[id];
      const pending = one && nodeOf(one.conversation, id)?.pending;
      const controller = reading.get(id);
      if (!one || !controller) return;
      const grace = new Promise((resolve) => setTimeout(resolve, one.phase === "writing" ? GRACE : 0));
      if (pending && one.again === null) answers.stop(pending);
      await grace; // an answer that is being written tells how it ended
      controller.abort();
    },
  };
}
