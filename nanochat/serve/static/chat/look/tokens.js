// An answer's tokens, shaded by how likely each was. One opens on what might have stood in its place.

import { button, element } from "../dom.js";
import { BANDS, bandOf, bar, legend, named, percent, visible } from "./words.js";

/**
 * @typedef {import("../tree.js").Token} Token
 * @typedef {import("./data.js").Alternative} Alternative
 * @typedef {import("./data.js").Look} Look
 * @typedef {{
 *   open: (index: number | null) => void, choose: (index: number, alternative: Alternative) => void,
 *   inspect: ((index: number) => void) | null
 * }} Actions
 *   inspect: null where nobody tells why
 */

const HINT = "Choose a token to see what else was likely there; arrow keys go from one to the next, Enter opens it.";

/**
 * @param {HTMLElement} root
 * @param {Actions} actions
 */
export function createTokens(root, actions) {
  const hint = element("p", "hint", `How likely the model itself found each token after all before it, without temperature and the like. ${HINT}`);
  const box = element("div", "tokens");
  const text = element("div", "text");
  const popover = element("div", "popover");
  text.setAttribute("role", "group");
  text.setAttribute("aria-label", `The answer's tokens. ${HINT}`);
  popover.setAttribute("role", "group");
  popover.tabIndex = -1;
  popover.hidden = true;
  box.append(text, popover);
  root.append(hint, legend("Shades of probability", "band", BANDS), box);

  /** @type {Token[]} */
  let shown = [];
  /** @type {Look | null} */
  let namedBy = null; // special tokens have no text of their own
  /** @type {number | null} */
  let open = null;
  let current = 0; // the token that Tab comes to

  const spans = () => /** @type {HTMLCollectionOf<HTMLElement>} */ (text.children);

  /** @param {EventTarget | null} target */
  function indexOf(target) {
    const span = target instanceof Element ? target.closest(".token") : null;
    return span ? [...text.children].indexOf(span) : -1;
  }

  /** @param {number} index */
  function go(index) {
    const place = Math.max(0, Math.min(shown.length - 1, index));
    if (spans()[current]) spans()[current].tabIndex = -1;
    current = place;
    spans()[current].tabIndex = 0;
    spans()[current].focus();
  }

  /**
   * The nearest token in the line above or below.
   * @param {number} direction
   */
  function inLine(direction) {
    const from = spans()[current].getBoundingClientRect();
    const middle = from.left + from.width / 2;
    let best = current;
    let least = Infinity;
    for (let place = current + direction; spans()[place]; place += direction) {
      const to = spans()[place].getBoundingClientRect();
      const lines = Math.round(Math.abs(to.top - from.top) / Math.max(1, from.height));
      if (lines < 1) continue;
      if (lines > 1 && least < Infinity) break;
      const far = Math.abs(to.left + to.width / 2 - middle) + 10_000 * (lines - 1);
      if (far < least) [best, least] = [place, far];
    }
    go(best);
  }

  text.addEventListener("click", (event) => {
    const index = indexOf(event.target);
    if (index < 0) return;
    go(index);
    actions.open(index === open ? null : index);
  });
  text.addEventListener("focusin", (event) => {
    const index = indexOf(event.target);
    if (index < 0 || index === current) return;
    if (spans()[current]) spans()[current].tabIndex = -1;
    current = index;
    spans()[current].tabIndex = 0;
  });
  text.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, PageUp: -20, PageDown: 20 }[event.key];
    if (step) go(current + step);
    else if (event.key === "ArrowUp") inLine(-1);
    else if (event.key === "ArrowDown") inLine(1);
    else if (event.key === "Home") go(0);
    else if (event.key === "End") go(shown.length - 1);
    else if (event.key === "Enter" || event.key === " ") actions.open(current);
    else return;
    event.preventDefault();
  });
  box.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || open === null) return;
    event.preventDefault(); // else the dialog around it would close
    event.stopPropagation();
    leave();
  });
  popover.addEventListener("keydown", (event) => {
    if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
    const all = [...popover.querySelectorAll("button:enabled")];
    const at = all.indexOf(/** @type {Element} */ (event.target));
    const next = all[event.key === "ArrowDown" ? at + 1 : Math.max(0, at - 1)];
    if (next instanceof HTMLElement) next.focus();
    event.preventDefault();
  });

  function leave() {
    actions.open(null);
    go(current);
  }

  /**
   * @param {number} index
   * @param {Look | null} look
   */
  function fill(index, look) {
    const [id, token, kind, p] = shown[index];
    const seen = look?.tokens[look.offset + index];
    const likely = p ?? seen?.probability ?? null; // as it was when the answer was made
    const special = kind === "special";
    const name = special ? (seen?.text ?? "a special token") : token;
    const head = element("p", "head");
    const place = seen ? seen.alternatives.findIndex((one) => one.id === id) : -1;
    head.append(named(name, special), ` ${said(kind, likely, place, seen ? seen.alternatives.length : 0)}`);
    const list = element("ol", "alternatives");
    list.setAttribute("aria-label", "What might have stood here; choosing one goes on from there");
    const inTool = isInTool(index, look);
    for (const one of seen?.alternatives ?? []) {
      const item = element("li");
      const isSpecial = one.id >= (look?.special_from ?? Infinity);
      const choice = button("", () => actions.choose(index, one));
      choice.disabled = one.id === id || isSpecial || inTool;
      if (one.id === id) choice.setAttribute("aria-current", "true");
      choice.append(named(one.text, isSpecial), " ", bar(one.probability), element("span", "share", percent(one.probability)));
      item.append(choice);
      list.append(item);
    }
    const notes = [];
    if (!look) notes.push(element("p", "hint", "Asking the model…"));
    else if (inTool) notes.push(element("p", "hint", "Inside a tool call nothing can be chosen."));
    else notes.push(element("p", "hint", "Choose one, and the answer goes on from there. Special tokens cannot be chosen."));
    const row = element("p", "row");
    const { inspect } = actions;
    if (inspect) {
      const why = button("Why?", () => inspect(index), "Why? What each layer would have said here");
      why.disabled = !look;
      row.append(why);
    }
    row.append(button("Close", leave));
    popover.setAttribute("aria-label", `Token ${index + 1}: ${special ? name : visible(name)}`);
    popover.replaceChildren(head, list, ...notes, row);
  }

  /**
   * Whether a token belongs to a tool call, from after its beginning to its very end.
   * @param {number} index
   * @param {Look | null} look
   */
  function isInTool(index, look) {
    const before = shown[index - 1];
    if (shown[index][2].startsWith("python") || before?.[2].startsWith("python")) return true;
    const special = before?.[2] === "special" ? look?.tokens[look.offset + index - 1]?.text : "";
    return ["<|python_start|>", "<|python_end|>", "<|output_start|>"].includes(special ?? "");
  }

  /** @param {number} index */
  function put(index) {
    const span = spans()[index];
    const left = Math.max(0, Math.min(span.offsetLeft, box.clientWidth - popover.offsetWidth));
    popover.style.left = `${left}px`;
    const top = span.offsetTop + span.offsetHeight + 4;
    popover.style.top = `${top}px`;
    box.style.minHeight = `${top + popover.offsetHeight + 8}px`; // room for it, whatever is around
    popover.scrollIntoView({ block: "nearest" });
  }

  /**
   * @param {Token[]} tokens
   * @param {number | null} opened
   * @param {Look | null} look of these very tokens; null: it is being asked for
   */
  return function show(tokens, opened, look) {
    const inside = text.contains(document.activeElement);
    if (tokens !== shown || look !== namedBy) {
      text.replaceChildren(...tokens.map((token, index) => spanOf(token, look?.tokens[look.offset + index]?.text)));
      shown = tokens;
      namedBy = look;
    }
    current = Math.max(0, Math.min(current, tokens.length - 1));
    if (spans()[current]) spans()[current].tabIndex = 0;
    if (inside) spans()[current]?.focus({ preventScroll: true });
    for (const [index, span] of [...spans()].entries()) {
      if ((index === opened) !== span.classList.contains("open")) {
        span.classList.toggle("open", index === opened);
        span.setAttribute("aria-expanded", String(index === opened));
      }
    }
    const had = popover.contains(document.activeElement);
    const before = open;
    open = opened !== null && opened < tokens.length ? opened : null;
    popover.hidden = open === null;
    box.style.minHeight = "";
    if (open === null) return;
    fill(open, look);
    put(open);
    if (open !== before || had) popover.focus({ preventScroll: true });
  };
}

/**
 * @param {Token} token
 * @param {string} [known] its text as the server names it
 */
function spanOf([, text, kind, p], known) {
  const shade = p === null ? "given" : `band band-${bandOf(p, BANDS)}`;
  const span = element("span", `token ${kind} ${shade}`);
  const name = kind === "special" ? (known ?? "special token") : visible(text);
  const how = p === null ? (kind === "python_output" ? "by the calculator" : "not chosen by the model") : percent(p);
  // Line ends are seen, and break the line; what is no whole character yet is a dot.
  const signs = kind === "special" || text === "" ? "" : text.replaceAll("\n", "↵\n");
  if (kind === "special") span.append(element("bdi", "special", known ?? "special"));
  else span.textContent = signs || "·";
  span.tabIndex = -1;
  span.title = `${name}: ${how}`;
  span.setAttribute("role", "button");
  span.setAttribute("aria-label", `${name}, ${how}`);
  span.setAttribute("aria-expanded", "false");
  return span;
}

/**
 * @param {Token[2]} kind
 * @param {number | null} likely
 * @param {number} place among the likeliest, -1 for none of them
 * @param {number} among how many
 */
function said(kind, likely, place, among) {
  if (kind === "python_output") return "is what the calculator said: the model did not choose it";
  if (likely === null) return "was not chosen by the model";
  const rank = place === 0 ? ", the likeliest" : place > 0 ? `, number ${place + 1} of the likeliest` : among ? `, none of the ${among} likeliest` : "";
  return `was ${percent(likely)} likely${rank}`;
}
