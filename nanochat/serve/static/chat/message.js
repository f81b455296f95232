// One message: what was said, how it stands with it, and what can be done with it.

import { copy } from "./copying.js";
import { button, element } from "./dom.js";
import { notesOf } from "./notes.js";
import { createRewriting } from "./rewriting.js";
import { createSaid } from "./said.js";
import { wordsOf } from "./tree.js";

/**
 * @typedef {import("./tree.js").Node} Node
 * @typedef {import("./state.js").Running} Running
 * @typedef {{
 *   node: Node, beside: Node[], running: Running | undefined, editing: boolean, idle: boolean, longest: number | undefined,
 *   by: string
 * }} Shown
 *   beside: those that stand in the same place, the node among them; idle: nothing is on its way in this conversation;
 *   longest: tokens of an answer where nothing is set; by: whose answer it is, where that is not plain
 * @typedef {{
 *   editing: (id: string | null) => void, edit: (id: string, text: string) => void, again: (id: string) => void,
 *   carryOn: (id: string) => void, hurry: (id: string) => void, choose: (id: string) => void
 * }} Actions
 */

/**
 * @param {Shown} shown
 * @param {Actions} actions
 */
export function createMessage({ node: { id, role } }, actions) {
  const mine = role === "user";
  const message = element("article", `message ${role}`);
  message.setAttribute("aria-label", mine ? "You" : "nanochat");
  const said = createSaid(mine);
  const rewriting = createRewriting((text) => actions.edit(id, text), () => leave());
  const notes = element("div", "notes");
  const by = element("p", "by");
  const tools = element("div", "actions");
  message.append(said.element, rewriting.element, notes, by, tools);
  /** @type {Shown | null} */
  let now = null;

  const turn = createTurn((node) => actions.choose(node));
  const edit = button("Edit", () => actions.editing(id));
  const again = button("Try again", () => actions.again(id));
  const copied = button("Copy", () => now && copy(wordsOf(now.node), copied));
  tools.append(turn.element, ...(mine ? [edit, copied] : [copied, again]));

  function leave() {
    actions.editing(null);
    edit.focus();
  }

  return {
    element: message,

    /** @param {Shown} shown */
    show(shown) {
      const before = now;
      now = shown;
      const { node, beside, running, editing, idle, longest } = shown;
      message.classList.toggle("streaming", Boolean(running));
      if (node.parts !== before?.node.parts || running !== before.running) said.show(node.parts, running?.phase);
      said.element.hidden = editing;
      rewriting.show(editing, wordsOf(node));
      showNotes(notes, mine ? [] : notesOf(node, running, longest), id, actions, idle);
      by.hidden = !shown.by;
      by.textContent = shown.by;
      turn.show(beside, node);
      tools.hidden = editing;
      copied.hidden = !wordsOf(node) || Boolean(running);
      edit.disabled = again.disabled = !idle;
      again.hidden = Boolean(running);
    },
  };
}

/**
 * @param {HTMLElement} root
 * @param {import("./notes.js").Note[]} notes
 * @param {string} id
 * @param {Pick<Actions, "carryOn" | "hurry">} actions
 * @param {boolean} idle
 */
export function showNotes(root, notes, id, actions, idle) {
  const told = JSON.stringify([notes, idle]);
  if (root.dataset.told === told) return;
  root.dataset.told = told;
  root.replaceChildren(
    ...notes.map(({ text, bad, does }) => {
      const note = element("p", bad ? "note bad" : "note", text);
      if (does) {
        const doing = button(does === "hurry" ? "Try now" : "Continue", () => actions[does](id));
        doing.disabled = does === "carryOn" && !idle;
        note.append(" ", doing);
      }
      return note;
    }),
  );
}

/**
 * "‹ 2/3 ›": turns to what else stands in a message's place.
 * @param {(id: string) => void} choose
 */
export function createTurn(choose) {
  const turn = element("span", "turn");
  const where = element("span");
  const earlier = button("‹", () => before && choose(before.id), "Earlier version");
  const later = button("›", () => after && choose(after.id), "Later version");
  /** @type {Node | undefined} */
  let before;
  /** @type {Node | undefined} */
  let after;
  turn.append(earlier, where, later);
  return {
    element: turn,

    /**
     * @param {Node[]} beside
     * @param {Node} node
     */
    show(beside, node) {
      const at = beside.findIndex((one) => one.id === node.id);
      before = beside[at - 1];
      after = beside[at + 1];
      turn.hidden = beside.length < 2;
      where.textContent = `${at + 1}/${beside.length}`;
      earlier.disabled = !before;
      later.disabled = !after;
    },
  };
}
