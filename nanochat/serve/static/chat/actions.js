// What a person does in a conversation.

import { textOf } from "./asked.js";
import { pairOf, withWordsAtEnd } from "./pair.js";
import { modeOf, ownId, runningHere } from "./state.js";
import { chosen, newId, partsOf, path, withLeaf, withNode } from "./tree.js";

/**
 * @typedef {import("./state.js").State} State
 * @typedef {import("./tree.js").Conversation} Conversation
 * @typedef {import("./tree.js").Node} Node
 * @typedef {import("./tree.js").Token} Token
 * @typedef {{model: string | null, pair?: import("./pair.js").Pair, begun?: Token[], aside?: boolean}} One
 *   an answer to be: of which model, in which pair; begun: the tokens that it begins with; aside: something else is shown
 * @typedef {{get: () => State, set: (change: Partial<State>) => void}} Store
 */

/**
 * @param {Store} store
 * @param {ReturnType<typeof import("./running.js").createRunning>} running
 * @param {(c: Conversation) => Promise<void>} keep
 */
export function createActions(store, running, keep) {
  const here = () => store.get().open[store.get().current];

  /** @param {Conversation} c */
  function put(c) {
    store.set({ open: { ...store.get().open, [c.id]: c } });
  }

  /** Whether something can be asked now; if not, the page says why. */
  function ready() {
    const state = store.get();
    return runningHere(state).length === 0 && state.server.phase !== "gone" && state.server.phase !== "login";
  }

  /**
   * @param {"user" | "assistant"} role
   * @param {string | null} parent
   * @param {string} [text]
   * @returns {Node}
   */
  function made(role, parent, text) {
    const nodes = Object.values(here()?.nodes ?? {});
    const time = nodes.reduce((latest, node) => Math.max(latest, node.time + 1), Date.now()); // also where the clock was put back
    return { id: newId(), parent, role, parts: text ? [{ type: "text", text: text.toWellFormed() }] : [], time };
  }

  /**
   * Have the chosen model answer below a node; with a second one chosen, both, side by side. Or `one` alone.
   * @param {Conversation} c
   * @param {string | null} parent
   * @param {One} [one]
   */
  function answer(c, parent, one) {
    const { chosen, second } = store.get();
    const id = newId();
    /** @type {One[]} */
    const both = [{ model: chosen, pair: { id, side: 0 } }, { model: second, pair: { id, side: 1 } }];
    const all = one ? [one] : second === null ? [{ model: chosen }] : both;
    const nodes = all.map(({ model, begun, pair }, index) => {
      const node = made("assistant", parent);
      const name = model ?? ownId(store.get());
      const begins = begun && { tokens: begun, parts: partsOf(begun) };
      return { ...node, time: node.time + index, ...(name && { model: name }), ...(pair && { pair }), ...begins };
    });
    const added = nodes.reduce(withNode, c);
    put(one?.aside ? added : withLeaf(added, nodes[0].id));
    nodes.forEach((node, index) => running.begin(c.id, node.id, all[index].model));
  }

  /**
   * Where two answers stand side by side: what puts another one into the same column.
   * @param {Conversation} c
   * @param {Node} node
   */
  function columnOf(c, node) {
    const pair = store.get().second === null ? null : pairOf(node);
    return pair ? { pair, aside: !path(c).some((one) => one.id === node.id) } : undefined;
  }

  /**
   * The model of an answer; the chosen one, where that is not there any more.
   * @param {Node} node
   */
  function modelOf(node) {
    const { models, chosen } = store.get();
    return models.some((one) => one.id === node.model) ? (node.model ?? null) : chosen;
  }

  /**
   * Where the next message stands: a question that got no answer is replaced by it.
   * @param {Conversation} c
   */
  function end(c) {
    const leaf = c.leaf === null ? undefined : c.nodes[c.leaf];
    const question = leaf?.role === "assistant" && leaf.parts.length === 0 && leaf.parent ? c.nodes[leaf.parent] : leaf;
    return question?.role === "user" && c.mode === "chat" ? question.parent : (question?.id ?? null);
  }

  return {
    /**
     * Whether it was sent.
     * @param {string} text in a text that is continued: what is added to it, or ""
     */
    send(text) {
      let c = here();
      if (!c || !ready()) return false;
      const { second } = store.get();
      if (c.leaf === null) c = { ...c, mode: modeOf(store.get()) };
      if (second !== null) c = withWordsAtEnd(c);
      if (c.mode === "text" && !text && c.leaf !== null) {
        const leaf = c.nodes[c.leaf];
        const goesOn = leaf.role === "assistant" && leaf.tokens?.length;
        if (goesOn && second === null) this.carryOn(leaf.id);
        else if (goesOn) answer(c, leaf.id); // both go on from here
        else answer(c, leaf.role === "user" ? leaf.id : leaf.parent);
        return true;
      }
      if (!text.trim()) return false;
      const between = c.mode === "text" && /\S$/u.test(textOf(c)) && /^[\p{L}\p{N}]/u.test(text) ? " " : "";
      const question = made("user", end(c), between + text);
      answer(withNode(c, question), question.id);
      return true;
    },

    /**
     * Another answer to the same question; the one there was stays beside it. Of two side by side only this one.
     * @param {string} id
     */
    again(id) {
      const c = here();
      const node = c?.nodes[id];
      if (!node || !ready()) return;
      const column = columnOf(c, node);
      answer(c, node.parent, column && { model: modelOf(node), ...column });
    },

    /**
     * The rest of an answer that ended too early, by the model that began it.
     * @param {string} id
     */
    carryOn(id) {
      const node = here()?.nodes[id];
      if (node && ready()) running.begin(here().id, id, modelOf(node));
    },

    /**
     * Another answer of the same model that begins with these tokens.
     * @param {string} id the answer that they are from
     * @param {Token[]} tokens
     */
    goOnFrom(id, tokens) {
      const c = here();
      const node = c?.nodes[id];
      if (node && ready()) answer(c, node.parent, { model: modelOf(node), begun: tokens, ...columnOf(c, node) });
    },

    /** @param {string | null} id the message that is being rewritten */
    editing(id) {
      store.set({ editing: id });
    },

    /** The last question is rewritten. */
    editLast() {
      const last = path(here()).findLast((node) => node.role === "user");
      if (last && ready()) store.set({ editing: last.id });
    },

    /**
     * Ask with other words; the question and all that followed stay beside it.
     * @param {string} id
     * @param {string} text
     */
    edit(id, text) {
      const c = here();
      const node = c?.nodes[id];
      if (!node || !text.trim() || !ready()) return;
      store.set({ editing: null });
      const question = made("user", c.mode === "text" ? null : node.parent, text);
      answer(withNode(c, question), question.id);
    },

    /** @param {string} id one of several that stand in the same place */
    async choose(id) {
      const c = chosen(here(), id);
      put(c);
      await keep(c);
    },

    stop() {
      for (const node of runningHere(store.get())) running.stop(node);
    },

    /** @param {string} id the answer that waits for its turn to be asked for again */
    hurry(id) {
      running.hurry(id);
    },
  };
}
