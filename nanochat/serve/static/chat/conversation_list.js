// The list of conversations: by day, with the keyboard, renamed in place.

import { button, element } from "./dom.js";
import { MOST_TITLE } from "./shape.js";

/**
 * @typedef {import("./database.js").Summary} Summary
 * @typedef {{row: HTMLElement, link: HTMLAnchorElement, buttons: HTMLButtonElement[]}} Row
 */

const AT_ONCE = 200; // rows; more on a click

/**
 * @param {HTMLElement} root
 * @param {{open: (id: string) => void, rename: (id: string, title: string) => void, remove: (summary: Summary) => void}} actions
 */
export function createConversationList(root, actions) {
  /** @type {Map<string, Row>} */
  let rows = new Map();
  /** @type {Summary[]} */
  let shown = [];
  let current = "";
  let reached = ""; // the row that Tab comes to
  let most = AT_ONCE;
  /** @type {(() => void) | null} what is to be shown when a name is written */
  let waiting = null;
  let renaming = false;
  let before = "";

  /** @param {Summary} summary */
  function made(summary) {
    const { id } = summary;
    const now = () => shown.find((one) => one.id === id) ?? summary;
    const link = element("a");
    link.href = `#${id}`;
    link.dir = "auto";
    link.setAttribute("aria-keyshortcuts", "F2 Delete");
    link.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return; // another tab, another window
      event.preventDefault();
      actions.open(id);
    });
    link.addEventListener("focus", () => reach(id));
    link.addEventListener("keydown", (event) => onKey(event, now()));
    const buttons = [button("✎", () => rename(now())), button("×", () => remove(now()))];
    const row = element("li");
    row.append(link, ...buttons);
    return { row, link, buttons };
  }

  /**
   * @param {KeyboardEvent} event
   * @param {Summary} summary
   */
  function onKey(event, summary) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const place = shown.findIndex((one) => one.id === summary.id);
    const places = { ArrowDown: place + 1, ArrowUp: place - 1, Home: 0, End: shown.length - 1 };
    if (event.key in places) focus(places[/** @type {keyof typeof places} */ (event.key)]);
    else if (event.key === "F2") rename(summary);
    else if (event.key === "Delete") remove(summary);
    else return;
    event.preventDefault();
  }

  /** @param {number} place */
  function focus(place) {
    const summary = shown[Math.max(0, Math.min(place, shown.length - 1))];
    if (summary) rows.get(summary.id)?.link.focus();
  }

  /** @param {string} id */
  function reach(id) {
    reached = id;
    for (const [key, { link, buttons }] of rows) {
      for (const one of [link, ...buttons]) one.tabIndex = key === id ? 0 : -1;
    }
  }

  /** @param {Summary} summary */
  function remove(summary) {
    const place = shown.findIndex((one) => one.id === summary.id);
    const next = shown[place + 1] ?? shown[place - 1];
    rows.get(next?.id)?.link.focus(); // before it goes, and the focus with it
    actions.remove(summary);
  }

  /** @param {Summary} summary */
  function rename(summary) {
    const parts = rows.get(summary.id);
    if (!parts || renaming) return;
    const { row, link } = parts;
    const input = element("input");
    input.value = summary.title;
    input.maxLength = MOST_TITLE;
    input.setAttribute("aria-label", `New name of ${summary.title}`);
    renaming = true;
    /**
     * @param {boolean} kept
     * @param {boolean} back whether the focus goes back to the list
     */
    const end = (kept, back) => {
      if (!renaming) return;
      renaming = false;
      row.replaceChildren(link, ...parts.buttons);
      if (kept && input.value !== summary.title) actions.rename(summary.id, input.value);
      waiting?.();
      if (back) rows.get(summary.id)?.link.focus();
    };
    input.addEventListener("blur", () => end(true, false));
    input.addEventListener("keydown", (event) => {
      event.stopPropagation(); // to others, Esc means something else
      if (event.isComposing) return;
      if (event.key === "Enter") end(true, true);
      if (event.key === "Escape") end(false, true);
    });
    row.replaceChildren(input);
    input.focus();
    input.select();
  }

  /**
   * @param {Summary[]} summaries newest first
   * @param {string} now id of the one that is open
   * @param {string} nothing what to say when there is none
   */
  function show(summaries, now, nothing) {
    waiting = null;
    if (renaming) {
      waiting = () => show(summaries, now, nothing);
      return;
    }
    const today = dayOf(Date.now());
    const key = JSON.stringify([summaries.slice(0, most), summaries.length, now, nothing, today]);
    if (key === before) return;
    before = key;
    const focused = shown.find((one) => rows.get(one.id)?.row.contains(document.activeElement));
    shown = summaries.slice(0, most);
    current = now;
    const old = rows;
    rows = new Map(shown.map((summary) => [summary.id, old.get(summary.id) ?? made(summary)]));
    /** @type {Map<string, HTMLElement>} */
    const groups = new Map();
    for (const summary of shown) {
      const { row } = named(summary);
      const day = dayOf(summary.changed);
      const name = day >= today ? "Today" : day === dayOf(today - 1) ? "Yesterday" : "Earlier";
      if (!groups.has(name)) groups.set(name, element("ul"));
      groups.get(name)?.append(row);
    }
    const parts = [...groups].flatMap(([name, list]) => {
      list.setAttribute("aria-label", name);
      return [element("h3", "", name), list];
    });
    root.replaceChildren(...parts);
    if (shown.length === 0) root.append(element("p", "hint", nothing));
    if (summaries.length > most) {
      root.append(button(`Show more of ${summaries.length}`, () => {
        most += AT_ONCE;
        show(summaries, now, nothing);
        focus(most - AT_ONCE);
      }));
    }
    reach(rows.has(reached) ? reached : rows.has(current) ? current : (shown[0]?.id ?? ""));
    if (focused) rows.get(focused.id)?.link.focus(); // what is moved loses it
  }

  /** @param {Summary} summary */
  function named(summary) {
    const parts = /** @type {Row} */ (rows.get(summary.id));
    const { link, buttons } = parts;
    link.textContent = summary.title;
    link.title = summary.title;
    if (summary.id === current) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
    ["Rename", "Delete"].forEach((what, index) => {
      buttons[index].setAttribute("aria-label", `${what} ${summary.title}`);
      buttons[index].title = what;
    });
    return parts;
  }

  return {
    show,
    /** To the first of the list. */
    first: () => focus(0),
    /** Whether there is no other to go to. */
    isLast: () => shown.length < 2,
  };
}

/**
 * The first moment of a day, here.
 * @param {number} time in ms
 */
const dayOf = (time) => new Date(time).setHours(0, 0, 0, 0);
