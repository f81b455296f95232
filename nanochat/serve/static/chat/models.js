// The models' names in the header. Each opens a list of the machine's checkpoints: one that answers, and one beside it.

import { about, grouped, nameOf } from "./checkpoints.js";
import { button, element } from "./dom.js";

/**
 * @typedef {import("./state.js").Model} Model
 * @typedef {{
 *   models: Model[], chosen: string | null, second: string | null, picker: boolean, own: string, size: string
 * }} Shown
 *   chosen: null is the server's own, whose name is `own` and whose size `size`; second: null is none;
 *   picker: whether there is a choice
 */

const MANY = 8; // models from which on they can be searched
const MOST = 200; // that are shown at once

/**
 * @param {HTMLElement} root
 * @param {{choose: (id: string) => void, compare: (id: string | null) => void, look: () => void}} actions
 *   look: asks which models there are now
 */
export function createModels(root, actions) {
  const fixed = element("span", "fixed");
  const first = createChooser(root, "models-first", "Which model answers", actions.choose, actions.look);
  const second = createChooser(root, "models-second", "Which model answers beside it", actions.compare, actions.look);
  const between = element("span", "between", "beside");
  const beside = button("Side by side with another…", () => {
    first.close();
    second.open();
  });
  const leave = button("Leave side by side", () => {
    second.close();
    actions.compare(null);
    first.opener.focus();
  });
  first.popup.append(beside);
  second.popup.append(leave);
  root.replaceChildren(fixed, first.opener, between, second.opener, first.popup, second.popup);

  /** @param {Shown} shown */
  return ({ models, chosen, second: other, picker, own, size }) => {
    const answers = chosen ?? own;
    fixed.hidden = picker;
    fixed.textContent = own && `${nameOf(own)}${size && `, ${size}`}`;
    first.opener.hidden = !picker;
    second.opener.hidden = between.hidden = !picker || other === null;
    beside.hidden = models.length < 2 || other !== null;
    leave.hidden = other === null;
    first.show(models, answers);
    second.show(models.filter((one) => one.id !== answers), other);
  };
}

/**
 * A button and the list that it opens: a listbox, and a field that searches it when it is long.
 * @param {HTMLElement} anchor
 * @param {string} id
 * @param {string} title
 * @param {(id: string) => void} choose
 * @param {() => void} look
 */
function createChooser(anchor, id, title, choose, look) {
  const opener = button("", () => {});
  opener.setAttribute("aria-haspopup", "dialog");
  const popup = element("div", "models");
  popup.popover = "auto";
  popup.setAttribute("role", "dialog");
  popup.setAttribute("aria-label", title);
  opener.popoverTargetElement = popup;
  const search = element("input");
  search.type = "search";
  search.placeholder = "Search";
  const list = element("div", "list");
  list.id = id;
  list.tabIndex = 0;
  list.setAttribute("role", "listbox");
  const more = element("p", "hint");
  more.setAttribute("role", "status");
  for (const [key, value] of Object.entries({ role: "combobox", "aria-expanded": "true", "aria-controls": id, "aria-autocomplete": "list" })) {
    search.setAttribute(key, value);
  }
  search.setAttribute("aria-label", "Search the checkpoints");
  list.setAttribute("aria-label", title);
  popup.append(element("h2", "", title), search, list, more);

  /** @type {Model[]} */
  let models = [];
  /** @type {string | null} */
  let chosen = null;
  /** @type {Model[]} in the order of the list */
  let listed = [];
  /** @type {string | undefined} the one that Enter takes */
  let active;

  function build() {
    const now = Date.now();
    listed = [];
    const boxes = [];
    for (const { title, models: those } of grouped(models, search.hidden ? "" : search.value)) {
      const few = those.slice(0, MOST - listed.length);
      if (few.length === 0) break;
      const box = element("div");
      box.setAttribute("role", "group");
      box.setAttribute("aria-label", title);
      const head = element("p", "stage", title);
      head.setAttribute("aria-hidden", "true");
      box.append(head, ...few.map((one, index) => option(one, listed.length + index, now)));
      listed.push(...few);
      boxes.push(box);
    }
    list.replaceChildren(...boxes);
    list.hidden = listed.length === 0;
    const hidden = search.value ? 0 : models.length - listed.length;
    const told = listed.length === 0 ? "There is none of this name." : hidden > 0 ? `${hidden.toLocaleString("en")} more: search for them.` : "";
    if (more.textContent !== told) more.textContent = told;
    mark(listed.some((one) => one.id === active) ? active : (listed.find((one) => one.id === chosen) ?? listed[0])?.id);
  }

  /**
   * @param {Model} model
   * @param {number} index
   * @param {number} now
   */
  function option(model, index, now) {
    const made = element("div", "option");
    made.id = `${id}-${index}`;
    made.setAttribute("role", "option");
    made.setAttribute("aria-selected", String(model.id === chosen));
    made.append(element("bdi", "", nameOf(model.id)), element("span", "hint", about(model, now)));
    made.addEventListener("click", () => take(model.id));
    return made;
  }

  /** @param {string | undefined} next */
  function mark(next) {
    active = next;
    const at = listed.findIndex((one) => one.id === next);
    const options = list.querySelectorAll(".option");
    options.forEach((one, index) => one.classList.toggle("active", index === at));
    options[at]?.scrollIntoView({ block: "nearest" });
    for (const one of [search, list]) {
      if (at >= 0) one.setAttribute("aria-activedescendant", `${id}-${at}`);
      else one.removeAttribute("aria-activedescendant");
    }
  }

  /** @param {string | undefined} taken */
  function take(taken) {
    if (taken === undefined) return;
    popup.hidePopover();
    opener.focus();
    choose(taken);
  }

  search.addEventListener("input", build);
  popup.addEventListener("keydown", (event) => {
    if (event.key === "Escape") event.stopPropagation(); // it closes this, and stops no answer
    if (event.isComposing || (event.target !== search && event.target !== list)) return;
    const at = listed.findIndex((one) => one.id === active);
    const inList = event.target === list;
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, ...(inList && { Home: 0, End: listed.length - 1 }) }[event.key];
    if (to !== undefined) mark(listed[Math.max(0, Math.min(listed.length - 1, to))]?.id);
    else if (event.key === "Enter" || (inList && event.key === " ")) take(active);
    else return;
    event.preventDefault();
  });
  popup.addEventListener("beforetoggle", (event) => {
    if (event.newState !== "open") return;
    const { left, bottom } = anchor.getBoundingClientRect();
    popup.style.setProperty("--left", `${left}px`);
    popup.style.setProperty("--top", `${bottom + 4}px`);
    search.value = "";
    search.hidden = models.length <= MANY;
    active = undefined;
    build();
    look();
  });
  popup.addEventListener("toggle", (event) => {
    if (event.newState !== "open") return;
    (search.hidden || matchMedia("(pointer: coarse)").matches ? list : search).focus();
    mark(active);
  });

  return {
    opener,
    popup,
    open: () => popup.showPopover(),
    close: () => popup.hidePopover(),

    /**
     * @param {Model[]} those
     * @param {string | null} current
     */
    show(those, current) {
      models = those;
      chosen = current;
      const name = current === null ? "" : nameOf(current);
      opener.replaceChildren(element("bdi", "", name));
      opener.title = title;
      opener.setAttribute("aria-label", `${title}: ${name}`);
      if (popup.matches(":popover-open")) build();
    },
  };
}
