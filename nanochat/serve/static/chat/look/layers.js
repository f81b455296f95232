// Why a token: what each layer would have said in its place, and where its attention looked.

import { button, element } from "../dom.js";
import { SHARES, bandOf, bar, legend, named, percent, visible } from "./words.js";

/**
 * @typedef {import("./data.js").Look} Look
 * @typedef {import("./data.js").Layer} Layer
 * @typedef {{id: string, step: number}} Checkpoint
 * @typedef {{
 *   checkpoint: (id: string) => void, head: (layer: number, head: number | null) => void, close: () => void
 * }} Actions
 *   head: null for the mean of a layer's heads
 * @typedef {{
 *   look: Look | null, index: number, checkpoints: Checkpoint[], checkpoint: string, layer: number | null,
 *   head: number | null, busy: boolean, problem: string
 * }} Shown
 *   index: of the token in the answer; checkpoints: of the same run, ascending; layer: null for the last one
 */

const REST = 250; // ms without a move of the slider before a checkpoint is asked
const [SAID, MOST] = [3, 5]; // tokens told of a layer, and of its attention
const LENS =
  "Each layer's state at the token before goes through the model's own final norm and head, as if the layers after it " +
  "were not there (the “logit lens”). Layers before the last were never trained to be read like that: nonsense in an " +
  "early layer says only that the final head cannot read it. What the last layer says is what the model says.";
const ATTENTION =
  "A share tells how much of a token's values the head took in, not what it did with them. Much attention to <|bos|> " +
  "often means that a head found nothing to do.";

/**
 * @param {HTMLElement} root
 * @param {Actions} actions
 */
export function createLayers(root, actions) {
  const title = element("h3");
  const back = button("Back to the tokens", actions.close);
  const head = element("div", "title");
  head.append(title, back);
  const moment = createMoment(actions.checkpoint);
  const problem = element("p", "note bad");
  problem.setAttribute("role", "alert");
  const content = element("div", "content");
  const table = element("table");
  const looked = createLooked(actions.head);
  content.append(table, element("p", "hint", LENS), looked.element);
  root.append(head, moment.element, problem, content);

  /** @param {Shown} shown */
  return function show({ look, index, checkpoints, checkpoint, layer, head, busy, problem: why }) {
    moment.show(checkpoints, checkpoint);
    problem.textContent = why;
    problem.hidden = !why;
    root.setAttribute("aria-busy", String(busy));
    content.classList.toggle("busy", busy);
    const chosen = look?.chosen;
    content.hidden = !look || chosen?.token !== look.offset + index;
    if (!look || !chosen || content.hidden) {
      title.textContent = busy ? "Asking the model…" : "Why this token?";
      return;
    }
    const token = look.tokens[chosen.token];
    title.replaceChildren("Why ", token ? named(token.text, token.special) : "what comes next", "?");
    const at = layer ?? chosen.layers.length - 1;
    fillTable(table, look, at, actions);
    looked.show(look, chosen.layers[at], head);
  };
}

/** @param {(id: string) => void} choose */
function createMoment(choose) {
  const box = element("div", "moment");
  const label = element("label", "", "Checkpoint");
  const slider = element("input");
  const told = element("output");
  label.htmlFor = slider.id = "look-moment";
  told.htmlFor.add(slider.id);
  slider.type = "range";
  slider.min = "0";
  slider.step = "1";
  box.append(label, slider, told);
  /** @type {Checkpoint[]} */
  let all = [];
  /** @type {number | undefined} */
  let timer;

  function tell() {
    const words = `step ${all[Number(slider.value)]?.step.toLocaleString("en")}`;
    told.textContent = words;
    slider.setAttribute("aria-valuetext", words);
  }
  slider.addEventListener("input", () => {
    tell();
    clearTimeout(timer);
    timer = window.setTimeout(() => {
      timer = undefined;
      const wanted = all[Number(slider.value)];
      if (wanted) choose(wanted.id);
    }, REST);
  });

  return {
    element: box,

    /**
     * @param {Checkpoint[]} checkpoints
     * @param {string} checkpoint
     */
    show(checkpoints, checkpoint) {
      box.hidden = checkpoints.length < 2;
      if (timer !== undefined) return; // it is being moved
      all = checkpoints;
      slider.max = String(Math.max(0, all.length - 1));
      slider.value = String(all.findIndex((one) => one.id === checkpoint));
      tell();
    },
  };
}

/**
 * @param {HTMLTableElement} table
 * @param {Look} look
 * @param {number} at
 * @param {Actions} actions
 */
function fillTable(table, look, at, actions) {
  const { token, layers } = look.chosen;
  const came = look.tokens[token];
  const caption = element("caption", "", "What each layer would have said");
  const head = element("tr");
  const columns = ["Layer", "Would have said", ...(came ? ["This token"] : [])];
  head.append(...columns.map((words) => element("th", "", words)));
  for (const cell of head.children) cell.setAttribute("scope", "col");
  const rows = layers.map((layer) => {
    const row = element("tr");
    const name = element("th");
    name.scope = "row";
    const chosen = button(String(layer.layer), () => actions.head(layer.layer, null), `Layer ${layer.layer}: where it looked`);
    chosen.setAttribute("aria-pressed", String(layer.layer === at));
    name.append(chosen);
    const said = element("td", "said");
    for (const one of layer.said.slice(0, SAID)) {
      const each = element("span", came && one.id === came.id ? "each right" : "each");
      each.append(named(one.text, one.id >= look.special_from), ` ${percent(one.probability)}`);
      said.append(each, " ");
    }
    row.append(name, said);
    if (layer.probability !== null) {
      const here = element("td", "here");
      here.append(bar(layer.probability), percent(layer.probability));
      row.append(here);
    }
    return row;
  });
  const kept = document.activeElement instanceof HTMLElement && table.contains(document.activeElement);
  const [top, body] = [element("thead"), element("tbody")];
  top.append(head);
  body.append(...rows);
  table.replaceChildren(caption, top, body);
  if (kept) rows[at]?.querySelector("button")?.focus({ preventScroll: true });
}

/** @param {(layer: number, head: number | null) => void} choose */
function createLooked(choose) {
  const box = element("div", "looked");
  const title = element("h4");
  const heads = element("div", "heads");
  heads.setAttribute("role", "group");
  heads.setAttribute("aria-label", "Heads");
  const window_ = element("p", "hint");
  const most = element("p", "most");
  const text = element("div", "text");
  text.tabIndex = 0;
  text.setAttribute("role", "group");
  text.setAttribute("aria-label", "The text, shaded by the share of attention; the largest shares are listed before it");
  box.append(title, heads, window_, most, text, legend("Shades of attention", "share", SHARES), element("p", "hint", ATTENTION));

  return {
    element: box,

    /**
     * @param {Look} look
     * @param {Layer} layer
     * @param {number | null} head
     */
    show(look, layer, head) {
      const { seen_from } = look.chosen;
      const one = head === null ? undefined : layer.heads[head];
      const shares = one ?? layer.mean;
      title.textContent = `Where layer ${layer.layer} looked`;
      const kept = [...heads.children].indexOf(document.activeElement ?? heads);
      heads.replaceChildren(
        ...[null, ...layer.heads.keys()].map((each) => {
          const made = button(each === null ? "Mean" : `Head ${each}`, () => choose(layer.layer, each), each === null ? "Mean of the heads" : undefined);
          made.setAttribute("aria-pressed", String(each === (one ? head : null)));
          return made;
        }),
      );
      if (kept >= 0 && heads.children[kept] instanceof HTMLElement) heads.children[kept].focus({ preventScroll: true });
      const first = layer.window === null ? 0 : Math.max(0, seen_from - layer.window);
      window_.textContent =
        first === 0
          ? "It saw all tokens up to the framed one, from which it foretold the next."
          : `It saw the framed token, from which it foretold the next, and the ${layer.window?.toLocaleString("en")} before it; not the pale ones.`;
      const nearest = [...shares.keys()].sort((a, b) => shares[b] - shares[a]).slice(0, MOST);
      most.replaceChildren("Most to: ");
      for (const [at, place] of nearest.entries()) {
        const { text, special } = look.tokens[place];
        if (at) most.append(", ");
        most.append(named(text, special), ` ${percent(shares[place])}`);
      }
      text.replaceChildren(
        ...look.tokens.slice(0, seen_from + 1).map(({ text, special }, place) => {
          const shade = place < first ? "unseen-token" : `share share-${bandOf(shares[place], SHARES)}`;
          const span = element("span", shade, special || text ? text.replaceAll("\n", "↵\n") : "·");
          if (special) span.classList.add("special");
          if (place === seen_from) span.classList.add("from");
          span.title = `${special ? text : visible(text)}: ${place < first ? "not seen" : percent(shares[place])}`;
          return span;
        }),
      );
    },
  };
}
