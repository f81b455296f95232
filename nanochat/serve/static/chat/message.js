// One message: what was said, how it stands with it, and what can be done with it.

import { copy } from "./copying.js";
import { button, element } from "./dom.js";
import { createFeedback } from "./feedback.js";
import { notesOf } from "./notes.js";
import { createRewriting } from "./rewriting.js";
import { createSaid } from "./said.js";
import { wordsOf } from "./tree.js";
import { visible } from "./visible.js";

/**
 * @typedef {import("./tree.js").Node} Node
 * @typedef {import("./state.js").Running} Running
 * @typedef {{
 *   node: Node, beside: Node[], running: Running | undefined, editing: boolean, idle: boolean, longest: number | undefined,
 *   by: string, marks: boolean, marked: import("./marking.js").Marked | null
 * }} Shown
 *   beside: those that stand in the same place, the node among them; idle: nothing is on its way in this conversation;
 *   longest: tokens of an answer where nothing is set; by: whose answer it is, where that is not plain;
 *   marks: the server keeps what a person thinks of answers; marked: what it said of the last mark
 * @typedef {{
 *   editing: (id: string | null) => void, edit: (id: string, text: string) => void, again: (id: string) => void,
 *   carryOn: (id: string) => void, hurry: (id: string) => void, choose: (id: string) => void, look: (id: string) => void,
 *   rate: (id: string, rating: "good" | "bad" | null) => void, correct: (id: string, text: string) => void,
 *   takeBack: (id: string) => void
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
  const copied = button("Copy", () => now && copy(wordsOf({ parts: visible(now.node.parts) }), copied));
  const look = button("Look inside", () => actions.look(id), "Look inside: how likely each token was");
  const opinion = element("div");
  const showOpinion = mine ? null : createFeedback(opinion, {
    rate: (rating) => actions.rate(id, rating),
    correct: (text) => actions.correct(id, text),
    takeBack: () => actions.takeBack(id),
  });
  tools.append(turn.element, ...(mine ? [edit, copied] : [copied, again, look, opinion]));

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
      if (before && same(before, shown)) return;
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
      look.hidden = Boolean(running) || !canLook(node);
      opinion.hidden = Boolean(running) || !shown.marks;
      showOpinion?.(node, shown.marked?.node === id ? shown.marked.kept : null);
    },
  };
}

/**
 * @param {Shown} a
 * @param {Shown} b
 */
function same({ beside: a, ...before }, { beside: b, ...now }) {
  const names = /** @type {(keyof typeof now)[]} */ (Object.keys(now));
  return names.every((name) => before[name] === now[name]) && a.length === b.length && a.every((node, at) => node.id === b[at].id);
}

/**
 * Whether its tokens are known. Those of a file from elsewhere are not.
 * @param {Node} node
 */
export const canLook = ({ role, tokens }) => role === "assistant" && Boolean(tokens?.length);

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
