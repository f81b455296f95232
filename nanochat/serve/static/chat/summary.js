// What the list of conversations shows of one, and what is searched in it.

import { titleOf } from "./tree.js";
import { visible } from "./visible.js";

/**
 * @typedef {import("./tree.js").Conversation} Conversation
 * @typedef {{id: string, title: string, changed: number}} Summary changed: when something was last said, in ms
 */

/**
 * @param {unknown} value
 * @returns {value is Summary}
 */
export function isSummary(value) {
  const { id, title, changed } = /** @type {Summary} */ (value ?? {});
  return typeof id === "string" && typeof title === "string" && Number.isFinite(changed);
}

/**
 * @param {Conversation} conversation
 * @returns {Summary}
 */
export function summaryOf(conversation) {
  const times = Object.values(conversation.nodes).map((node) => node.time);
  return { id: conversation.id, title: titleOf(conversation), changed: times.reduce((a, b) => Math.max(a, b), conversation.created) };
}

/** @param {string} text */
const folded = (text) => text.normalize("NFKC").toLowerCase();

/** @param {string} text */
export const wordsOfSearch = (text) => folded(text).split(/\s+/).filter(Boolean);

/**
 * What is searched in a conversation: all of its branches.
 * @param {Conversation} conversation
 */
export function searched(conversation) {
  const texts = Object.values(conversation.nodes).flatMap((node) => visible(node.parts).map((part) => part.text));
  return folded([titleOf(conversation), ...texts].join("\n"));
}
