// What a person thinks of an answer: good, bad, or what it should have been. The server keeps that, to be learnt.

import { copy } from "./copying.js";
import { button, element } from "./dom.js";
import { createRewriting } from "./rewriting.js";
import { visible } from "./visible.js";

/**
 * @typedef {import("./tree.js").Node} Node
 * @typedef {import("./tree.js").Part} Part
 * @typedef {{path: string, commands: string[], good: number, bad: number, corrected: number}} Kept
 * @typedef {{
 *   rate: (rating: "good" | "bad" | null) => void, correct: (text: string) => void, takeBack: () => void
 * }} Actions
 */

const HINT = "A tool call is written as [12*3 = 36]. It stays one where the calculator gives that very result.";

/**
 * The parts of an answer as one text, as the server reads it: "That is [12*3 = 36] 36".
 * @param {Part[]} parts
 */
export function inBrackets(parts) {
  let text = "";
  let before = "text";
  for (const part of [...visible(parts), /** @type {Part} */ ({ type: "text", text: "" })]) {
    if (before === "python" && part.type === "python_output") text += " = ";
    else if (before !== "text") text += "] ";
    if (part.type === "python") text += "[";
    text += part.text;
    before = part.type;
  }
  return text;
}

/**
 * @param {HTMLElement} root
 * @param {Actions} actions
 */
export function createFeedback(root, actions) {
  /** @type {Node | null} */
  let now = null;
  const good = button("Good", () => actions.rate(now?.rating === "good" ? null : "good"));
  const bad = button("Bad", () => actions.rate(now?.rating === "bad" ? null : "bad"));
  const correct = button("Correct", () => edit(Boolean(rewriting.element.hidden)));
  correct.title = "Write what it should have said";
  const back = button("Take back", () => actions.takeBack(), "Take back what you said of this answer");
  const rewriting = createRewriting(save, () => leave(), "Save", "What it should have said");
  const below = element("div", "below");
  const told = element("div", "told");
  told.setAttribute("role", "status");
  rewriting.element.append(element("p", "hint", HINT));
  below.append(rewriting.element, told);
  root.classList.add("feedback");
  root.append(good, bad, correct, back, below);

  /** @param {boolean} open */
  function edit(open) {
    correct.setAttribute("aria-expanded", String(open));
    if (now) rewriting.show(open, now.correction ?? inBrackets(now.parts));
  }

  /** @param {string} text */
  function save(text) {
    leave();
    actions.correct(text.toWellFormed());
  }

  function leave() {
    edit(false);
    correct.focus();
  }

  edit(false);

  /**
   * @param {Node} node
   * @param {Kept | string | null} kept what the server said of the last mark, if that was of this answer; a string: why
   *   it is not kept
   */
  return function show(node, kept) {
    now = node;
    good.setAttribute("aria-pressed", String(node.rating === "good"));
    bad.setAttribute("aria-pressed", String(node.rating === "bad"));
    const corrected = node.correction !== undefined;
    correct.textContent = corrected ? "Corrected" : "Correct";
    correct.setAttribute("aria-pressed", String(corrected));
    back.hidden = !node.rating && !corrected;
    const words = JSON.stringify(kept);
    if (told.dataset.told === words) return;
    told.dataset.told = words;
    told.replaceChildren(...(kept === null ? [] : typeof kept === "string" ? [element("p", "note bad", kept)] : lines(kept)));
  };
}

/** @param {Kept} kept */
function lines({ path, commands, good, bad, corrected }) {
  const counts = `${good} good, ${corrected} corrected, ${bad} bad and left out when the model learns`;
  const kept = element("p", "note", "Kept in ");
  kept.append(element("code", "", path), `: ${counts}.`);
  if (good + corrected === 0) return [kept];
  const learn = element("p", "note", "Learn from it with ");
  const [command] = commands;
  const copied = button("Copy", () => copy(command, copied), "Copy the command");
  learn.append(element("code", "", command), " ", copied);
  return [kept, learn];
}
