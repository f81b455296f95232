// What the server is asked with, so that it answers into a node of a conversation.

import { ALL, MESSAGES } from "./limits.js";
import { messagesFor, path, wordsOf } from "./tree.js";

/**
 * @typedef {import("./tree.js").Conversation} Conversation
 * @typedef {import("./tree.js").Message} Message
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
 * The question, and how many of the first messages it leaves out since the server takes no more.
 * @param {Conversation} c
 * @param {Node} node an answer that is gone on from, or one that has nothing yet
 * @param {string | null} model
 * @param {boolean} chats whether it was trained to chat; one that was not goes on with the question as with a text
 * @returns {{request: import("./answering.js").Asked, leftOut: number}}
 */
export function asked(c, node, model, chats) {
  const { parent, pending: id = node.id, settings = {}, tokens = [] } = node;
  /** @type {"chat" | "text"} */
  const mode = c.mode === "chat" && (node.start ? node.start.chat : chats) ? "chat" : "text";
  const all = mode === "chat" ? messagesFor(c, parent) : [];
  const messages = recent(all).map(wellFormed);
  const question = c.mode === "chat" ? path(c, parent).slice(-1).map(wordsOf).join("") : textOf(c, parent);
  const text = mode === "chat" ? "" : question.slice(-ALL).toWellFormed();
  const begun = unended(tokens).map(([token]) => token);
  const request = { id, model, mode, system: c.system.toWellFormed(), messages, text, begun, settings };
  return { request, leftOut: all.length - messages.length };
}

/**
 * The newest messages that the server takes, from one of the person's on.
 * @param {Message[]} messages
 */
function recent(messages) {
  let first = messages.length - 1;
  let total = 0;
  for (let at = messages.length - 1; at >= 0 && messages.length - at <= MESSAGES; at--) {
    total += lengthOf(messages[at]);
    if (total > ALL) break;
    if (messages[at].role === "user") first = at;
  }
  return messages.slice(Math.max(0, first));
}

/** @param {Message} message */
const lengthOf = ({ content }) =>
  typeof content === "string" ? content.length : content.reduce((sum, part) => sum + part.text.length, 0);

/**
 * Half a character, as a file may bring, is no text.
 * @param {Message} message
 * @returns {Message}
 */
function wellFormed({ role, content }) {
  if (typeof content === "string") return { role, content: content.toWellFormed() };
  return { role, content: content.map((part) => ({ ...part, text: part.text.toWellFormed() })) };
}
