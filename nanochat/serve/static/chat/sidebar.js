// The conversations at the side: the list, searching, to a file and back, and what keeps them from being kept.

import { createConversationList } from "./conversation_list.js";
import { button, element } from "./dom.js";
import { createDrawer } from "./drawer.js";

/**
 * @typedef {import("./database.js").Summary} Summary
 * @typedef {import("./database.js").Problem} Problem
 */

const UNDO = 10_000; // ms
const REST = 150; // ms without a key before it is searched
/** @type {Record<Problem, string>} */
const PROBLEMS = {
  "": "",
  refused:
    "This browser keeps nothing for this page, as in a private window: conversations last until the page is closed. Export saves them to a file.",
  full:
    "There is no room left in this browser: what is said now lasts until the page is closed. Export saves all to a file; deleting conversations makes room.",
  later:
    "A newer version of this page has been here: what is said now lasts until the page is closed, and older conversations come back with the newer version. Reload to get it; Export saves what is here.",
};

/**
 * @param {HTMLElement} root
 * @param {HTMLElement} opener the button that opens it on a narrow window
 * @param {{
 *   open: (id: string) => void, rename: (id: string, title: string) => void, remove: (id: string) => void,
 *   restore: (id: string) => void, search: (text: string) => void, exportAll: () => void,
 *   importFile: (file: File) => Promise<{added: number, changed: number, problems: string[]}>, newChat: () => void
 * }} actions
 */
export function createSidebar(root, opener, actions) {
  const search = element("input");
  search.type = "search";
  search.placeholder = "Search";
  search.setAttribute("aria-label", "Search conversations");
  const list = element("nav");
  list.setAttribute("aria-label", "Conversations by day");
  const note = element("p", "note");
  note.setAttribute("role", "status");
  const told = element("div", "told");
  told.setAttribute("role", "status");
  const file = element("input");
  file.type = "file";
  file.accept = ".json,.jsonl,application/json";
  file.hidden = true;

  const drawer = createDrawer(root, opener, () => search);
  const conversations = createConversationList(list, {
    open: (id) => {
      drawer.set(false);
      actions.open(id);
    },
    rename: actions.rename,
    remove: (summary) => {
      if (conversations.isLast()) search.focus();
      actions.remove(summary.id);
      say([`Deleted “${summary.title}”.`], { text: "Undo", action: () => actions.restore(summary.id) });
    },
  });

  // ---- searching ----

  /** @type {number | undefined} */
  let resting;
  search.addEventListener("input", () => {
    clearTimeout(resting);
    resting = window.setTimeout(() => actions.search(search.value), REST);
  });
  search.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" || (event.key === "Enter" && !event.isComposing)) {
      event.preventDefault();
      conversations.first();
    } else if (event.key === "Escape" && search.value) {
      event.stopPropagation();
      search.value = "";
      actions.search("");
    }
  });

  // ---- what just happened ----

  /** @type {number | undefined} */
  let passing;

  /**
   * For a while, but not while somebody is at it.
   * @param {string[]} lines
   * @param {{text: string, action: () => void}} [offer] what can be done about it, for as long as it is shown
   */
  function say(lines, offer) {
    clearTimeout(passing);
    const close = () => {
      clearTimeout(passing);
      if (told.contains(document.activeElement)) search.focus();
      told.replaceChildren();
    };
    const act = () => {
      close();
      offer?.action();
    };
    const words = lines.map((line) => element("p", "", line));
    told.replaceChildren(...words, offer ? button(offer.text, act) : button("×", close, "Close"));
    if (!offer) return;
    const later = () => {
      passing = window.setTimeout(() => (told.matches(":hover, :focus-within") ? later() : close()), UNDO);
    };
    later();
  }

  // ---- to a file and back ----

  const exporting = button("Export", actions.exportAll, "Export all conversations to a file");
  const importing = button("Import", () => file.click(), "Import conversations from a file");
  file.addEventListener("change", async () => {
    const [chosen] = file.files ?? [];
    file.value = ""; // so that the same file can be chosen again
    if (!chosen) return;
    const { added, changed, problems } = await actions.importFile(chosen);
    const done = `${counted(added)} added, ${changed} changed.`;
    say(problems.length > 0 ? problems : [added + changed > 0 ? done : "Nothing new: all of it is here already."]);
  });

  const top = element("div", "top");
  const begin = () => {
    drawer.set(false);
    actions.newChat();
  };
  top.append(search, button("+", begin, "New conversation"));
  const files = element("div", "files");
  files.append(exporting, importing, file);
  root.append(top, list, told, note, files);

  return {
    /** @param {{summaries: Summary[], current: string, found: string[] | null, problem: Problem, broken: number}} data */
    show({ summaries, current, found, problem, broken }) {
      const hits = found && new Set(found);
      const shown = hits ? summaries.filter(({ id }) => hits.has(id)) : summaries;
      conversations.show(shown, current, hits ? "Nothing found." : "Conversations will be listed here.");
      const unread = `${counted(broken)} cannot be read. What is kept of ${broken === 1 ? "it" : "them"} stays as it is.`;
      const words = [PROBLEMS[problem], broken > 0 ? unread : ""].filter(Boolean).join(" ");
      if (note.textContent !== words) note.textContent = words;
      exporting.disabled = summaries.length === 0;
    },

    /** To the search, also where the drawer is closed. */
    search() {
      drawer.set(true);
      search.focus();
      search.select();
    },
  };
}

/** @param {number} count */
const counted = (count) => `${count} conversation${count === 1 ? "" : "s"}`;
