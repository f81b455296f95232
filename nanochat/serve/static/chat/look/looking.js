// What is done while one looks inside an answer: the server is asked, and what was asked last is shown.

import { asked } from "../asked.js";
import { runningHere } from "../state.js";

/**
 * @typedef {import("../state.js").State} State
 * @typedef {import("../tree.js").Conversation} Conversation
 * @typedef {import("../tree.js").Node} Node
 * @typedef {import("../tree.js").Token} Token
 * @typedef {import("./data.js").Look} Look
 * @typedef {import("./data.js").Alternative} Alternative
 * @typedef {import("./layers.js").Checkpoint} Checkpoint
 * @typedef {(asked: import("./data.js").LookAsked, signal: AbortSignal, tokens: Token[]) => Promise<Look>} AskLook
 * @typedef {{get: () => State, set: (change: Partial<State>) => void}} Store
 * @typedef {{
 *   conversation: string, node: string, model: string, opened: number | null, own: Look | null, why: number | null,
 *   look: Look | null, checkpoints: Checkpoint[], checkpoint: string, layer: number | null, head: number | null,
 *   busy: boolean, problem: string
 * }} Looking
 *   node: the answer; model: that made it; opened: the token whose alternatives are shown; own: the look with that model;
 *   why: the token whose layers are shown; look: with the model `checkpoint`, one of `checkpoints`
 */

/**
 * @param {Store} store
 * @param {(node: string, tokens: Token[]) => void} goOnFrom
 * @param {AskLook} askLook
 */
export function createLooking(store, goOnFrom, askLook) {
  let request = new AbortController();

  /** @param {Partial<Looking>} change */
  function set(change) {
    const { looking } = store.get();
    if (looking) store.set({ looking: { ...looking, ...change } });
  }

  /** What is looked into, as it is now. */
  function now() {
    const { looking, open } = store.get();
    const conversation = looking ? open[looking.conversation] : undefined;
    const node = looking ? conversation?.nodes[looking.node] : undefined;
    return looking && conversation && node?.tokens ? { looking, conversation, node, tokens: node.tokens } : null;
  }

  /**
   * @param {Token[]} tokens
   * @param {number | null} token
   * @param {string} model
   * @returns {Promise<Look | null>} null: something else was asked meanwhile, or there is none, and it is shown why
   */
  async function ask(tokens, token, model) {
    const at = now();
    if (!at) return null;
    request.abort();
    const mine = (request = new AbortController());
    const { messages, text, mode, system } = asked(at.conversation, at.node, model, true).request;
    const longest = at.node.settings?.max_tokens ?? store.get().server.defaults.max_tokens ?? null;
    const ids = tokens.map(([id]) => id);
    set({ busy: true, problem: "" });
    try {
      const found = await askLook({ model: model || null, mode, system, messages, text, ids, token, max_tokens: longest }, mine.signal, tokens);
      if (mine.signal.aborted) return null;
      set({ busy: false });
      return found;
    } catch (error) {
      if (mine.signal.aborted) return null;
      const words = error instanceof TypeError ? "The server cannot be reached." : String(Object(error).message);
      set({ busy: false, problem: words });
      return null;
    }
  }

  /**
   * @param {number} index
   * @param {string} checkpoint
   */
  async function explain(index, checkpoint) {
    const at = now();
    const look = at && (await ask(at.tokens, index, checkpoint));
    if (!at || !look) return;
    const [id, text] = at.tokens[index];
    const seen = look.tokens[look.offset + index];
    // The ids of a run that was trained anew with another tokenizer would mean something else.
    const whole = text !== "" && !`${text}${seen?.text}`.includes("\ufffd");
    const other = seen?.id !== id || (whole && !seen.special && seen.text !== text);
    set({ look, problem: other ? "This checkpoint has another tokenizer: to it, these are other tokens." : "" });
  }

  return {
    /** @param {string} id of an answer */
    async look(id) {
      const { open, current, models, server } = store.get();
      const node = open[current]?.nodes[id];
      if (!node?.tokens?.length) return;
      const own = server.model ? `${server.model.stage}/${server.model.tag}/${server.model.step}` : "";
      const model = node.start?.model ?? node.model ?? own;
      const run = model.replace(/[^/]*$/, "");
      const checkpoints = models.filter((one) => one.id.startsWith(run)).sort((a, b) => a.step - b.step);
      const nothing = { opened: null, own: null, why: null, look: null, layer: null, head: null, busy: false, problem: "" };
      store.set({ looking: { conversation: current, node: id, model, checkpoints, checkpoint: model, ...nothing } });
      const look = await ask(node.tokens, null, model);
      if (look) set({ own: look });
    },

    /** @param {number | null} index */
    open: (index) => set({ opened: index }),

    /**
     * Another answer, which is the same up to a token and goes on from another one there.
     * @param {number} index
     * @param {Alternative} alternative
     */
    async choose(index, { id, text, probability }) {
      const at = now();
      if (!at) return;
      const state = store.get();
      if (runningHere(state).length > 0) return set({ problem: "Another answer is on its way in this conversation: wait for its end." });
      if (state.server.phase === "gone" || state.server.phase === "login") return set({ problem: "Nobody is there to answer." });
      /** @type {(was: Token, text: string) => Token} */
      const instead = ([, , , , likely], text) =>
        likely ? [id, text, "text", probability, likely] : [id, text, "text", probability];
      const tokens = [...at.tokens.slice(0, index), instead(at.tokens[index], text)];
      if (text.includes("\ufffd") || tokens[index - 1]?.[1] === "") {
        // Around a part of a character: which text it completes depends on those before it.
        const look = await ask(tokens, null, at.looking.model);
        if (!look) return;
        tokens[index] = instead(at.tokens[index], look.tokens[look.offset + index].text.replace(/\ufffd+$/, ""));
      }
      this.close();
      goOnFrom(at.node.id, tokens);
    },

    /** @param {number} index the token whose layers are shown */
    async inspect(index) {
      const { looking } = store.get();
      if (!looking) return;
      set({ why: index, look: null, checkpoint: looking.model, layer: null, head: null });
      await explain(index, looking.model);
    },

    /** @param {string} checkpoint */
    async checkpoint(checkpoint) {
      const { looking } = store.get();
      if (!looking || looking.why === null) return;
      set({ checkpoint });
      await explain(looking.why, checkpoint);
    },

    /**
     * @param {number} layer
     * @param {number | null} head
     */
    head: (layer, head) => set({ layer, head }),

    /** Back from the layers to the tokens. */
    back() {
      request.abort();
      set({ why: null, look: null, busy: false, problem: "" });
    },

    close() {
      request.abort();
      if (store.get().looking) store.set({ looking: null });
    },
  };
}
