// How an answer comes, or came: how fast, how soon, and how much of the model's context it takes.

import { calm } from "./calm.js";
import { element } from "./dom.js";
import { createPace, secondsOf, speedOf } from "./pace.js";

/** @typedef {import("./tree.js").Node} Node */

/**
 * @param {HTMLElement} root
 * @returns {(node: Node | undefined, running: boolean) => void} the newest answer of what is shown
 */
export function createFigures(root) {
  const pace = createPace();
  const none = element("p", "hint", "How fast the next answer comes is shown here.");
  const list = element("dl");
  const speed = figure(list, "Speed");
  const first = figure(list, "First token after");
  const used = figure(list, "Context used");
  const bar = element("div", "bar");
  const prompt = element("span", "prompt");
  const answer = element("span", "answer");
  bar.setAttribute("aria-hidden", "true"); // the figures beside it say the same
  bar.append(prompt, answer);
  const parts = element("p", "hint");
  const missing = element("p", "note");
  const context = element("div");
  context.append(bar, parts, missing);
  root.append(none, list, context);

  const show = calm((/** @type {{node: Node | undefined, known: import("./pace.js").Pace | null}} */ { node, known }) => {
    none.hidden = Boolean(node);
    list.hidden = context.hidden = !node;
    if (!node || !known) return;
    set(speed, known.speed === null ? "–" : speedOf(known.speed));
    set(first, known.first === null ? "–" : secondsOf(known.first));
    const { start, tokens = [] } = node;
    context.hidden = !start?.window;
    if (!start?.window) return set(used, "–");
    const { window, left_out, cut, begun } = start;
    const before = Math.max(0, start.prompt_tokens - begun);
    const share = (/** @type {number} */ n) => `${Math.min(100, (100 * n) / window)}%`;
    set(used, `${count(before + tokens.length)} of ${count(window)} tokens`);
    prompt.style.width = share(before);
    answer.style.width = share(tokens.length);
    set(parts, `${count(before)} to read, ${count(tokens.length)} said`);
    const gone = [
      ...(left_out ? [`The first ${left_out === 1 ? "message" : `${count(left_out)} messages`} of this chat did not fit.`] : []),
      ...(cut ? [`${count(cut)} ${cut === 1 ? "token" : "tokens"} of the last message did not fit.`] : []),
    ];
    set(missing, gone.join(" "));
  });

  return (node, running) => show({ node, known: node ? pace(node, running) : null });
}

/** @param {number} n */
const count = (n) => n.toLocaleString("en");

/**
 * @param {HTMLElement} root
 * @param {string} name
 */
function figure(root, name) {
  const box = element("div");
  const value = element("dd");
  box.append(element("dt", "", name), value);
  root.append(box);
  return value;
}

/**
 * @param {HTMLElement} place
 * @param {string} text
 */
function set(place, text) {
  if (place.textContent !== text) place.textContent = text;
}
