// What the server is asked with, so that it answers into a node of a conversation.

import { messagesFor, path, wordsOf } from "./tree.js";

/**
 * @typedef {import("./tree.js").Conversation} Conversation
 * @typedef {import("./tree.js").Node} Node
 * @typedef {import("./tree.js").Token} Token
 */

/**
 * A text that is continued, as it stands up to `leaf`.
 * @param {Conversation} c
 * @param {string | null} [leaf]
 */
export const textOf = (c, leaf = c.leaf) => path(c, leaf).map(wordsOf).join("");

/**
 * The tokens that the model goes on from: its own, without those that ended the answer.
 * @param {Token[]} tokens
 */
export function unended(tokens) {
  let end = tokens.length;
  while (end > 0 && tokens[end - 1][2] === "special") end--;
  return tokens.slice(0, end);
}

/**
 * @param {Conversation} c
 * @param {Node} node an answer that is gone on from, or one that has nothing yet
 * @param {string | null} model
 * @returns {import("./answering.js").Asked}
 */
export function asked(c, node, model) {
  const { parent, pending: id = node.id, settings = {}, tokens = [] } = node;
  const said = c.mode === "text" ? { messages: [], text: textOf(c, parent) } : { messages: messagesFor(c, parent), text: "" };
  return { id, model, mode: c.mode, system: c.system, ...said, begun: unended(tokens).map(([token]) => token), settings };
}
