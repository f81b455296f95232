// A conversation is a tree of messages: an edited question and an answer tried again stand beside what was before.
// Pure functions: they give new values and never change what they were given.

/**
 * @typedef {"text" | "python" | "python_output"} PartType
 * @typedef {[id: number, text: string, p: number]} Likely
 * @typedef {[id: number, text: string, kind: PartType | "special", p: number | null, likely?: Likely[]]} Token
 *   p: the model's own probability of the token, null where nothing was chosen; likely: what it could have been, where
 *   who answers tells it
 * @typedef {{type: PartType, text: string}} Part
 * @typedef {{temperature?: number, top_k?: number, top_p?: number, max_tokens?: number, seed?: number}} Settings
 * @typedef {{
 *   id: string, model: string, chat: boolean, prompt_tokens: number, window: number, left_out: number, cut: number,
 *   begun: number, seed: number | null
 * }} Start
 * @typedef {"stop" | "length" | "window" | "stopped" | "failed"} Finish
 * @typedef {{finish: Finish, error: string | null, tokens: number, seconds: number, first: number | null}} End
 * @typedef {{
 *   id: string, parent: string | null, role: "user" | "assistant", parts: Part[], time: number, changed?: number,
 *   model?: string, settings?: Settings, tokens?: Token[], start?: Start, end?: End, pending?: string,
 *   rating?: "good" | "bad", correction?: string, pair?: import("./pair.js").Pair
 * }} Node
 *   time: when it was begun, changed: when it was last put into its conversation, both in ms;
 *   pending: the answer on the server that is still being written into it. Fields that are unknown here are kept.
 * @typedef {{
 *   version: 1, id: string, title: string, named: boolean, system: string, mode: "chat" | "text",
 *   created: number, changed: number, nodes: Record<string, Node>, leaf: string | null, removed?: string[],
 *   titled?: number
 * }} Conversation
 *   named: whether a person gave the title, titled: when; changed: when anything was, in ms, grows with every change;
 *   leaf: the end of what is shown;
 *   removed: nodes that another tab's older state must not bring back
 * @typedef {{role: "user" | "assistant", content: string | Part[]}} Message
 */

const TITLE = 60; // characters

export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16)); // randomUUID is missing on plain http
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * @param {string} [system]
 * @param {"chat" | "text"} [mode]
 * @returns {Conversation}
 */
export function newConversation(system = "", mode = "chat") {
  const now = Date.now();
  const told = { title: "", named: false, system, mode, created: now, changed: now };
  return { version: 1, id: newId(), ...told, nodes: {}, leaf: null };
}

/**
 * A moment after the last change, even where the clock was put back.
 * @param {Conversation} c
 */
const later = (c) => Math.max(Date.now(), c.changed + 1);

/**
 * @param {Conversation} c
 * @param {string | null} id
 * @returns {Node | undefined}
 */
const nodeOf = (c, id) => (id !== null && Object.hasOwn(c.nodes, id) ? c.nodes[id] : undefined);

/**
 * @param {Node} a
 * @param {Node} b
 */
const byTime = (a, b) => a.time - b.time || (a.id < b.id ? -1 : a.id > b.id ? 1 : 0);

/**
 * From the first message to `leaf`.
 * @param {Conversation} c
 * @param {string | null} [leaf]
 * @returns {Node[]}
 */
export function path(c, leaf = c.leaf) {
  const found = [];
  const seen = new Set();
  for (let node = nodeOf(c, leaf); node && !seen.has(node.id); node = nodeOf(c, node.parent)) {
    seen.add(node.id);
    found.push(node);
  }
  return found.reverse();
}

/**
 * Itself and those that stand in its place in other branches, oldest first.
 * @param {Conversation} c
 * @param {Node} node
 */
export function siblings(c, node) {
  return Object.values(c.nodes).filter((one) => one.parent === node.parent).sort(byTime);
}

/**
 * Ids of the nodes `ids` and of all below them.
 * @param {Conversation} c
 * @param {Iterable<string>} ids
 */
function withAllBelow(c, ids) {
  /** @type {Map<string | null, string[]>} */
  const children = new Map();
  for (const node of Object.values(c.nodes)) {
    const beside = children.get(node.parent);
    if (beside) beside.push(node.id);
    else children.set(node.parent, [node.id]);
  }
  const found = new Set(ids);
  for (const id of found) for (const child of children.get(id) ?? []) found.add(child); // a set takes in more meanwhile
  return found;
}

/**
 * Adds the node, or replaces the one with its id.
 * @param {Conversation} c
 * @param {Node} node
 * @returns {Conversation}
 */
export function withNode(c, node) {
  const changed = later(c);
  return { ...c, changed, nodes: { ...c.nodes, [node.id]: { ...node, changed } } };
}

/**
 * @param {Conversation} c
 * @param {string | null} id
 * @returns {Conversation}
 */
export function withLeaf(c, id) {
  return { ...c, changed: later(c), leaf: id };
}

/**
 * With a title by a person; an empty one gives the conversation its first words back.
 * @param {Conversation} c
 * @param {string} title
 * @returns {Conversation}
 */
export function withTitle(c, title) {
  const changed = later(c);
  return { ...c, changed, titled: changed, title: title.trim(), named: Boolean(title.trim()) };
}

/**
 * @param {Conversation} c
 * @param {string} system
 * @returns {Conversation}
 */
export function withSystem(c, system) {
  return { ...c, changed: later(c), system };
}

/**
 * Shows the branch of `siblingId`, down to its newest end.
 * @param {Conversation} c
 * @param {string} siblingId
 * @returns {Conversation}
 */
export function chosen(c, siblingId) {
  const below = withAllBelow(c, [siblingId]);
  const nodes = Object.values(c.nodes).filter((node) => below.has(node.id));
  const parents = new Set(nodes.map((node) => node.parent));
  const newest = nodes.filter((node) => !parents.has(node.id)).sort(byTime).at(-1);
  return withLeaf(c, newest?.id ?? siblingId);
}

/**
 * Without a node and all below it. What is shown then ends in the newest of its siblings' branches, or above it.
 * @param {Conversation} c
 * @param {string} id
 * @returns {Conversation}
 */
export function without(c, id) {
  const node = nodeOf(c, id);
  if (!node) return c;
  const gone = withAllBelow(c, [id]);
  const left = onlyNodes({ ...c, changed: later(c), removed: [...(c.removed ?? []), ...gone] }, (one) => !gone.has(one.id));
  if (c.leaf === null || !gone.has(c.leaf)) return left;
  const beside = siblings(left, node).at(-1);
  return beside ? chosen(left, beside.id) : { ...left, leaf: node.parent };
}

/**
 * @param {Conversation} c
 * @param {(node: Node) => boolean} kept
 * @returns {Conversation}
 */
function onlyNodes(c, kept) {
  return { ...c, nodes: Object.fromEntries(Object.entries(c.nodes).filter(([, node]) => kept(node))) };
}

/**
 * The words of a message, without code and what tools answered.
 * @param {{parts: Part[]}} node
 */
export const wordsOf = (node) => node.parts.filter((part) => part.type === "text").map((part) => part.text).join("");

/**
 * The name that a person gave, or the first words.
 * @param {Conversation} c
 */
export function titleOf(c) {
  if (c.title) return c.title;
  const nodes = Object.values(c.nodes);
  const begins = nodes.filter((node) => node.parent === null); // not the earliest: a clock may have been put back
  const asked = begins.filter((node) => node.role === "user");
  const [first] = (asked.length > 0 ? asked : begins).sort(byTime);
  const words = first ? wordsOf(first).slice(0, 10 * TITLE).replace(/\s+/g, " ").trim() : "";
  const letters = Array.from(words);
  if (letters.length <= TITLE) return words || "New chat";
  const begin = letters.slice(0, TITLE).join("");
  const end = begin.lastIndexOf(" ");
  return `${end > TITLE / 2 ? begin.slice(0, end) : begin}…`;
}

/**
 * What the server is asked with. A question that got no answer is left out where another follows.
 * @param {Conversation} c
 * @param {string | null} [leaf]
 * @returns {Message[]}
 */
export function messagesFor(c, leaf = c.leaf) {
  /** @type {Message[]} */
  const messages = [];
  for (const { id, role, parts } of path(c, leaf)) {
    const said = parts.filter((part) => part.text);
    if (role === "assistant" && said.length === 0 && id !== leaf) continue;
    if (role === "user" && messages.at(-1)?.role === "user") messages.pop();
    const plain = said.every((part) => part.type === "text");
    messages.push({ role, content: plain ? said.map((part) => part.text).join("") : said });
  }
  return messages;
}

/**
 * @param {Token[]} tokens
 * @returns {Part[]}
 */
export function partsOf(tokens) {
  /** @type {Part[]} */
  const parts = [];
  let apart = true; // a tool call that ends and another that begins are two
  for (const [, text, kind] of tokens) {
    if (kind === "special") {
      apart = apart || parts.at(-1)?.type !== "text";
    } else if (text) {
      const last = parts.at(-1);
      if (last && last.type === kind && !apart) parts[parts.length - 1] = { type: kind, text: last.text + text };
      else parts.push({ type: kind, text });
      apart = false;
    }
  }
  return parts;
}

/**
 * Two states of one conversation, as two tabs may have them, made one: the nodes of both.
 * Of what differs the newer counts, and where both are equally new, `b`.
 * @param {Conversation} a
 * @param {Conversation} b
 * @returns {Conversation}
 */
export function merged(a, b) {
  const [older, newer] = b.changed >= a.changed ? [a, b] : [b, a];
  const { title, named, titled = 0 } = (older.titled ?? 0) > (newer.titled ?? 0) ? older : newer;
  /** @type {Record<string, Node>} */
  const nodes = { ...a.nodes };
  for (const [id, node] of Object.entries(b.nodes)) {
    nodes[id] = Object.hasOwn(a.nodes, id) ? mergedNode(a.nodes[id], node) : node;
  }
  const given = { title, named, ...(titled > 0 && { titled }) };
  const both = { ...newer, ...given, nodes, created: Math.min(a.created, b.created) };
  const removed = [...new Set([...(a.removed ?? []), ...(b.removed ?? [])])];
  const gone = withAllBelow(both, removed);
  const left = removed.length > 0 ? onlyNodes({ ...both, removed }, (node) => !gone.has(node.id)) : both;
  if (nodeOf(left, left.leaf)) return left;
  const above = path(both).filter((node) => !gone.has(node.id)).at(-1);
  const first = above ?? Object.values(left.nodes).filter((node) => node.parent === null).sort(byTime).at(-1);
  return { ...left, leaf: first ? chosen(left, first.id).leaf : null };
}

/** @param {Node} node */
const answerOf = (node) => node.pending ?? node.start?.id;

/**
 * Of one answer that two tabs read, one has read more.
 * @param {Node} a
 * @param {Node} b
 * @returns {Node}
 */
function mergedNode(a, b) {
  const [older, newer] = (b.changed ?? 0) >= (a.changed ?? 0) ? [a, b] : [b, a];
  if (answerOf(older) === undefined || answerOf(older) !== answerOf(newer) || !hasMore(older, newer)) return newer;
  const { pending, ...rest } = newer;
  const { parts, tokens, start, end } = older;
  return { ...rest, parts, ...(tokens && { tokens }), ...(start && { start }), ...(end ? { end } : { pending }) };
}

/**
 * @param {Node} a
 * @param {Node} b
 */
function hasMore(a, b) {
  const size = (/** @type {Node} */ node) => node.parts.reduce((sum, part) => sum + part.text.length, 0);
  const more = (a.tokens?.length ?? 0) - (b.tokens?.length ?? 0) || size(a) - size(b);
  return more !== 0 ? more > 0 : Boolean(a.end) && !b.end;
}
