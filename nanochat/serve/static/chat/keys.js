// The keys of the page, and the list of them.

import { button, element } from "./dom.js";

const APPLE = /Mac|iPhone|iPad/.test(navigator.platform);
const CTRL = APPLE ? "⌘" : "Ctrl";
const SEARCH = [CTRL, "K"];
/** @type {[string[], string][]} */
const KEYS = [
  [["Enter"], "sends the message"],
  [["Shift", "Enter"], "begins a new line"],
  [["↑"], "in the empty field: rewrites your last message"],
  [["Esc"], "stops an answer, or closes what is open"],
  [SEARCH, "searches the conversations"],
  [[CTRL, "Shift", "O"], "begins a new chat"],
  [["?"], "shows this list, where nothing is being written"],
];

/**
 * @param {HTMLDialogElement} dialog
 * @param {HTMLElement} opener
 * @param {{stop: () => void, newChat: () => void, search?: () => void}} actions
 */
export function createKeys(dialog, opener, actions) {
  const title = element("h2", "", "Keys");
  title.id = "keys-title";
  const list = element("dl");
  for (const [keys, does] of KEYS) {
    if (keys === SEARCH && !actions.search) continue;
    const term = element("dt");
    for (const key of keys) term.append(element("kbd", "", key), " ");
    list.append(term, element("dd", "", does));
  }
  const row = element("div", "row");
  const done = button("Done", () => dialog.close());
  done.className = "primary";
  row.append(element("span"), done);
  dialog.replaceChildren(title, list, row);
  opener.addEventListener("click", () => dialog.showModal());

  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.isComposing || document.querySelector("dialog[open], :popover-open")) return;
    const ctrl = APPLE ? event.metaKey && !event.ctrlKey : event.ctrlKey && !event.metaKey;
    const key = event.key.toLowerCase();
    const action =
      event.key === "Escape" ? actions.stop
      : ctrl && !event.shiftKey && !event.altKey && key === "k" ? actions.search
      : ctrl && event.shiftKey && !event.altKey && key === "o" ? actions.newChat
      : event.key === "?" && !isWriting(event.target) ? () => dialog.showModal()
      : null;
    if (!action) return;
    if (event.key !== "Escape") event.preventDefault(); // of the browser's own, a search in its address bar for one
    action();
  });
}

/** @param {EventTarget | null} target */
const isWriting = (target) =>
  target instanceof HTMLTextAreaElement || target instanceof HTMLSelectElement || target instanceof HTMLInputElement;
