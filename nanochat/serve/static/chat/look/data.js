// What is seen inside a model, as the server tells it (docs/looking.md).

/**
 * @typedef {{id: number, text: string, probability: number}} Alternative
 * @typedef {{id: number, text: string, special: boolean, probability: number | null, alternatives: Alternative[]}} Seen
 * @typedef {{
 *   layer: number, window: number | null, said: Alternative[], probability: number | null, mean: number[], heads: number[][]
 * }} Layer
 * @typedef {{
 *   offset: number, special_from: number, tokens: Seen[], next: Alternative[],
 *   chosen: {token: number, id: number | null, seen_from: number, layers: Layer[]}
 * }} Look
 *   offset: the place of the answer's first token among `tokens`; special_from: ids from there on are special tokens'
 * @typedef {{
 *   model: string | null, mode: "chat" | "text", system: string, messages: import("../tree.js").Message[], text: string,
 *   ids: number[], token: number | null, max_tokens: number | null
 * }} LookAsked
 */

/**
 * @param {LookAsked} asked
 * @param {AbortSignal} signal
 * @returns {Promise<Look>} an Error says in words why there is none
 */
export async function askLook(asked, signal) {
  const request = { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(asked), signal };
  const answer = await fetch("/page/look", request);
  const told = await answer.json().catch(() => null);
  if (answer.ok && Array.isArray(told?.tokens) && Array.isArray(told.chosen?.layers)) return told;
  throw new Error(typeof told?.detail === "string" ? told.detail : `The server answered ${answer.status} and nothing to look at.`);
}
