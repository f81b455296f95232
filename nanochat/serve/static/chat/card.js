// What is known of a model: its size, how it was trained, and what it scored.

import { count } from "../watch/words.js";
import { nameOf } from "./checkpoints.js";
import { element } from "./dom.js";

/**
 * What GET /page/card says.
 * @typedef {{
 *   id: string, depth: number | null, parameters: number | null, window: number | null, vocab_size: number | null,
 *   trained: [string, string][], scores: [string, string][]
 * }} Card
 */

/**
 * @param {HTMLElement} root
 * @returns {(cards: {id: string, card: Card | undefined, problem: string}[]) => void}
 */
export function createCards(root) {
  let told = "";
  return (cards) => {
    const now = JSON.stringify(cards);
    if (now === told) return;
    told = now;
    root.replaceChildren(...cards.map(({ id, card, problem }) => {
      const section = element("section", "card");
      const title = element("h3");
      title.append(element("bdi", "", nameOf(id)));
      section.append(title);
      if (problem) section.append(element("p", "note bad", problem));
      else if (!card) section.append(element("p", "hint", "Its card is being read."));
      else section.append(facts(sizes(card)), ...titled("How it was trained", card.trained), ...titled("What it scored", card.scores));
      return section;
    }));
  };
}

/**
 * @param {Card} card
 * @returns {[string, string][]}
 */
function sizes({ depth, parameters, window, vocab_size: vocabulary }) {
  const known = /** @type {[string, string | null][]} */ ([
    ["Parameters", parameters === null ? null : count(parameters)],
    ["Layers", depth === null ? null : depth.toLocaleString("en")],
    ["Context", window === null ? null : `${window.toLocaleString("en")} tokens`],
    ["Vocabulary", vocabulary === null ? null : `${vocabulary.toLocaleString("en")} tokens`],
  ]);
  return /** @type {[string, string][]} */ (known.filter(([, value]) => value !== null));
}

/**
 * @param {string} title
 * @param {[string, string][]} rows
 */
function titled(title, rows) {
  return rows.length > 0 ? [element("h4", "", title), facts(rows)] : [];
}

/** @param {[string, string][]} rows */
function facts(rows) {
  const list = element("dl");
  for (const [name, value] of rows) {
    const box = element("div");
    box.append(element("dt", "", name), element("dd", "", value));
    list.append(box);
  }
  return list;
}
