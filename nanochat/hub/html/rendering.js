// Conversations as token ids, and what of a long one fits the model's window: nanochat/tokenizer/render.py and
// nanochat/inference/window.py once more.

/**
 * @typedef {import("./tokenizer.js").Tokenizer} Tokenizer
 * @typedef {{type: "text" | "python" | "python_output", text: string}} Part
 * @typedef {{role: "system" | "user" | "assistant", content: string | Part[]}} Message
 * @typedef {{ids: number[], leftOut: number, cut: number}} Prompt
 *   leftOut: messages of the history that did not fit; cut: tokens of the last one that did not
 */

/** @type {Record<Part["type"], string[]>} */
const FENCES = {
  text: [],
  python: ["<|python_start|>", "<|python_end|>"],
  python_output: ["<|output_start|>", "<|output_end|>"],
};

/** @param {Message} message */
const partsOf = ({ content }) => (typeof content === "string" ? [{ type: /** @type {const} */ ("text"), text: content }] : content);

/** Ids of whole messages, of which the first may be the system's.
 * @param {Tokenizer} tokenizer
 * @param {Message[]} messages
 */
function render(tokenizer, messages) {
  const ids = [tokenizer.special("<|bos|>")];
  for (const message of systemJoined(messages)) {
    ids.push(tokenizer.special(`<|${message.role}_start|>`));
    for (const { type, text } of partsOf(message)) {
      const [opening, closing] = FENCES[type].map(tokenizer.special);
      if (opening !== undefined) ids.push(opening);
      for (const id of tokenizer.encode(text)) ids.push(id);
      if (closing !== undefined) ids.push(closing);
    }
    ids.push(tokenizer.special(`<|${message.role}_end|>`));
  }
  return ids;
}

/** There is no system token: its text stands before the first user's.
 * @param {Message[]} messages
 */
function systemJoined([first, ...rest]) {
  if (first.role !== "system") return [first, ...rest];
  /** @param {Message} message */
  const words = (message) => partsOf(message).map(({ type, text }) => (type === "text" ? text : "")).join("");
  return [{ role: /** @type {const} */ ("user"), content: `${words(first)}\n\n${words(rest[0])}` }, ...rest.slice(1)];
}

/** Up to where the model goes on: after the last question, or in the last answer, which is left open.
 * @param {Tokenizer} tokenizer
 * @param {Message[]} messages
 */
function renderOpen(tokenizer, messages) {
  const ids = render(tokenizer, messages);
  if (messages[messages.length - 1].role === "assistant") return ids.slice(0, -1);
  return [...ids, tokenizer.special("<|assistant_start|>")];
}

/** What is wrong with a conversation, or "".
 * @param {Message[]} messages
 */
export function mistakeIn(messages) {
  const turns = messages[0]?.role === "system" ? messages.slice(1) : messages;
  if (!turns.length) return "There is nothing to answer.";
  const odd = turns.some(({ role }, place) => role !== (place % 2 ? "assistant" : "user"));
  return odd ? "Questions and answers must take turns." : "";
}

/** Prompt ids of a conversation, its oldest exchanges left out until an answer has room.
 * @param {Tokenizer} tokenizer
 * @param {Message[]} messages
 * @param {number} window
 * @param {number} mostTokens of the answer
 * @returns {Prompt}
 */
export function fitConversation(tokenizer, messages, window, mostTokens) {
  const system = messages[0].role === "system" ? messages.slice(0, 1) : [], turns = messages.slice(system.length);
  const last = turns.length - 1 - Number(turns[turns.length - 1].role === "assistant");
  let ids = renderOpen(tokenizer, [...system, ...turns.slice(last)]);
  let after = renderOpen(tokenizer, turns.slice(last)).slice(1);
  let leftOut = last;
  for (let first = last - 2; first >= 0; first -= 2) {
    const exchange = turns.slice(first, first + 2);
    // Far more than fits need not be encoded.
    const characters = exchange.flatMap(partsOf).reduce((sum, { text }) => sum + text.length / 2, 0);
    if (characters > window * tokenizer.longest) break;
    const longer = [...render(tokenizer, [...system, ...exchange]), ...after];
    if (longer.length > window - answerRoom(window, mostTokens)) break;
    ids = longer;
    leftOut = first;
    after = [...render(tokenizer, exchange).slice(1), ...after];
  }
  const fitting = fitIds(tokenizer, ids, window, mostTokens);
  return { ids: fitting, leftOut, cut: ids.length - fitting.length };
}

/** Tokens to keep free for an answer when something is cut anyway.
 * @param {number} window
 * @param {number} mostTokens
 */
const answerRoom = (window, mostTokens) => Math.max(1, Math.min(mostTokens, Math.floor(window / 4)));

/** The ids themselves if they leave room for a token, else the newest, after their <|bos|>.
 * @param {Tokenizer} tokenizer
 * @param {number[]} ids
 * @param {number} window
 * @param {number} mostTokens
 */
export function fitIds(tokenizer, ids, window, mostTokens) {
  if (ids.length < window) return ids;
  const keep = Math.max(1, window - answerRoom(window, mostTokens)), bos = tokenizer.special("<|bos|>");
  return ids[0] === bos && keep > 1 ? [bos, ...ids.slice(ids.length - keep + 1)] : ids.slice(ids.length - keep);
}
