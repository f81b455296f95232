// What a conversation must look like, wherever it comes from. What is unknown here is kept: a later version wrote it.

import { chosen } from "./tree.js";

/**
 * @typedef {import("./tree.js").Conversation} Conversation
 * @typedef {import("./tree.js").Node} Node
 */

export const MOST_TITLE = 200; // characters
const ID = /^[0-9a-f]{32}$/;
const PARTS = ["text", "python", "python_output"];
const SETTINGS = ["temperature", "top_k", "top_p", "max_tokens", "seed"];
const COUNTS = ["prompt_tokens", "window", "left_out", "cut", "begun"];
const KINDS = [...PARTS, "special"];

/** Says in a sentence what is wrong. */
export class Misshapen extends Error {}

/**
 * @param {unknown} right
 * @param {string} sentence
 * @returns {asserts right}
 */
export function must(right, sentence) {
  if (!right) throw new Misshapen(sentence);
}

/**
 * @param {unknown} value
 * @returns {value is Record<string, unknown>}
 */
export const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

/**
 * @param {unknown} value
 * @returns {value is string}
 */
const isId = (value) => typeof value === "string" && ID.test(value);

/** @param {unknown} value */
const isCount = (value) => typeof value === "number" && Number.isFinite(value) && value >= 0;

/** @param {unknown} value */
const isText = (value) => typeof value === "string";

/**
 * A moment in ms that is not to come: an odd clock elsewhere must not win over all that is done here. (Changes within
 * one ms are a few ms ahead.)
 * @param {unknown} value
 */
const moment = (value) => Math.min(Number(value), Date.now() + 10_000);

/**
 * A conversation from what was kept or sent. Throws Misshapen.
 * @param {unknown} value
 * @returns {Conversation}
 */
export function readConversation(value) {
  must(isObject(value), "it is no object");
  must(typeof value.version === "number", "it has no version");
  must(value.version === 1, `it is of version ${value.version}, which this page does not know`);
  must(isId(value.id), "its id is not 32 hexadecimal digits");
  must(isText(value.title) && typeof value.named === "boolean", "its title is not text");
  must(isCount(value.titled ?? 0), "when it was named is not a number");
  must(isText(value.system), "its system prompt is not text");
  must(value.mode === "chat" || value.mode === "text", "its mode is neither chat nor text");
  must(isCount(value.created) && isCount(value.changed), "its times are not numbers");
  must(isObject(value.nodes), "it has no messages");
  const removed = value.removed ?? [];
  must(Array.isArray(removed) && removed.every(isId), "its list of removed messages holds something else");
  /** @type {Record<string, Node>} */
  const nodes = {};
  for (const [id, node] of Object.entries(value.nodes)) nodes[id] = readNode(id, node);
  checkTree(nodes);
  const title = String(value.title).slice(0, MOST_TITLE);
  const times = {
    created: moment(value.created),
    changed: moment(value.changed),
    ...(value.titled !== undefined && { titled: moment(value.titled) }),
  };
  const found = /** @type {Conversation} */ (/** @type {unknown} */ ({ ...value, title, nodes, ...times }));
  if (found.leaf === null || (isId(found.leaf) && found.leaf in nodes)) return found;
  const first = Object.values(nodes).find((node) => node.parent === null);
  return first ? chosen(found, first.id) : { ...found, leaf: null };
}

/**
 * @param {string} id
 * @param {unknown} value
 * @returns {Node}
 */
function readNode(id, value) {
  must(isId(id), "the id of a message is not 32 hexadecimal digits");
  /** @type {(right: unknown, what: string) => asserts right} */
  const check = (right, what) => must(right, `message ${id}: ${what}`);
  check(isObject(value) && value.id === id, "it does not bear its own id");
  check(value.parent === null || isId(value.parent), "what it answers is no id");
  check(value.role === "user" || value.role === "assistant", "its role is neither user nor assistant");
  check(Array.isArray(value.parts), "it has no list of parts");
  for (const part of value.parts) {
    check(isObject(part) && PARTS.includes(String(part.type)) && isText(part.text), "a part has an unknown type or no text");
  }
  check(isCount(value.time) && isCount(value.changed ?? 0), "its times are not numbers");
  check(isText(value.model ?? ""), "its model is not text");
  const settings = value.settings ?? {};
  check(isObject(settings), "its settings are no object");
  check(SETTINGS.every((name) => Number.isFinite(settings[name] ?? 0)), "its settings are not numbers");
  check(value.pending === undefined || isId(value.pending), "the answer it waits for is no id");
  check([undefined, "good", "bad"].includes(/** @type {string} */ (value.rating)), "its rating is neither good nor bad");
  check(isText(value.correction ?? ""), "its correction is not text");
  if (value.tokens !== undefined) {
    check(Array.isArray(value.tokens), "its tokens are no list");
    check(value.tokens.every(isToken), "a token is not [id, text, kind, probability]");
  }
  if (value.start !== undefined) {
    const start = value.start;
    check(isObject(start) && isText(start.id) && isText(start.model), "how it began is not known");
    check(COUNTS.every((name) => isCount(start[name])), "the figures of its beginning are not numbers");
  }
  if (value.end !== undefined) {
    const end = value.end;
    check(isObject(end) && isText(end.finish) && isText(end.error ?? ""), "how it ended is not known");
    check(isCount(end.tokens) && isCount(end.seconds) && isCount(end.first ?? 0), "the figures of its end are not numbers");
  }
  const times = { time: moment(value.time), ...(value.changed !== undefined && { changed: moment(value.changed) }) };
  return /** @type {Node} */ (/** @type {unknown} */ ({ ...value, ...times }));
}

/** @param {unknown} token */
function isToken(token) {
  if (!Array.isArray(token) || token.length < 4) return false;
  const [id, text, kind, p] = token;
  return isCount(id) && isText(text) && KINDS.includes(kind) && (p === null || (isCount(p) && p <= 1));
}

/** @param {Record<string, Node>} nodes */
function checkTree(nodes) {
  const well = new Set();
  for (const start of Object.values(nodes)) {
    const way = new Set();
    for (let node = start; !well.has(node.id); node = nodes[node.parent]) {
      must(!way.has(node.id), `message ${node.id} answers itself`);
      way.add(node.id);
      if (node.parent === null) break;
      must(Object.hasOwn(nodes, node.parent), `message ${node.id} answers one that is missing`);
    }
    for (const id of way) well.add(id);
  }
}
