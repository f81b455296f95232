// Answers of two models to one question, which stand beside each other.

import { path, siblings, withLeaf } from "./tree.js";

/**
 * @typedef {import("./tree.js").Conversation} Conversation
 * @typedef {import("./tree.js").Node} Node
 * @typedef {{id: string, side: 0 | 1}} Pair
 *   id: shared by all answers to one question that were asked for side by side; side: the column
 */

/**
 * What a node says of it, which may come from a file.
 * @param {Node} node
 * @returns {Pair | null}
 */
export function pairOf({ pair }) {
  return pair && typeof pair.id === "string" && (pair.side === 0 || pair.side === 1) ? pair : null;
}

/**
 * The answers of each side, oldest first, where there are answers of both.
 * @param {Conversation} c
 * @param {Node} node
 * @returns {[Node[], Node[]] | null}
 */
export function sidesOf(c, node) {
  const pair = pairOf(node);
  if (!pair) return null;
  const [one, other] = [0, 1].map((side) =>
    siblings(c, node).filter((each) => pairOf(each)?.id === pair.id && pairOf(each)?.side === side));
  return one.length > 0 && other.length > 0 ? [one, other] : null;
}

/**
 * Where the answer at the end said nothing, as one that failed, the other one beside it is gone on from.
 * @param {Conversation} c
 */
export function withWordsAtEnd(c) {
  const end = path(c).at(-1);
  if (!end || end.role === "user" || end.parts.length > 0) return c;
  const other = sidesOf(c, end)?.flat().findLast((node) => node.parts.length > 0);
  return other ? withLeaf(c, other.id) : c;
}

/**
 * What else can stand in the place of both, the node itself among them: other answers, and of other pairs one each.
 * @param {Conversation} c
 * @param {Node} node
 */
export function besidePair(c, node) {
  const own = pairOf(node)?.id;
  const seen = new Set([own]);
  return siblings(c, node).filter((one) => {
    if (one.id === node.id) return true;
    const pair = pairOf(one)?.id;
    if (pair === undefined) return true;
    if (seen.has(pair)) return false;
    seen.add(pair);
    return true;
  });
}
