// A text that a model continues: what the person wrote and what the model went on with, as one text.

import { copy } from "./copying.js";
import { button, element } from "./dom.js";
import { canLook, createTurn, showNotes } from "./message.js";
import { notesOf } from "./notes.js";
import { createRewriting } from "./rewriting.js";
import { wordsOf } from "./tree.js";

/** @param {import("./message.js").Actions} actions */
export function createFlow(actions) {
  const box = element("article", "message flow");
  box.setAttribute("aria-label", "The text");
  const body = element("div", "body");
  const notes = element("div", "notes");
  const by = element("p", "by");
  const tools = element("div", "actions");
  const rewriting = createRewriting((text) => actions.edit(first(), text), () => leave(), "Continue from here");
  const turn = createTurn((node) => actions.choose(node));
  const edit = button("Edit", () => actions.editing(first()), "Edit the text");
  const again = button("Try again", () => actions.again(last()));
  const copied = button("Copy", () => copy(text(), copied));
  const look = button("Look inside", () => actions.look(last()), "Look inside the last answer: how likely each token was");
  tools.append(turn.element, edit, copied, again, look);
  box.append(body, rewriting.element, notes, by, tools);
  /** @type {import("./message.js").Shown[]} */
  let now = [];

  const text = () => now.map(({ node }) => wordsOf(node)).join("");
  const first = () => now[0].node.id;
  const last = () => now[now.length - 1].node.id;

  function leave() {
    actions.editing(null);
    edit.focus();
  }

  return {
    element: box,

    /** @param {import("./message.js").Shown[]} all from the first to the last */
    show(all) {
      now = all;
      const end = all.at(-1);
      if (!end) return;
      const editing = all.some((one) => one.editing);
      box.classList.toggle("streaming", Boolean(end.running));
      all.forEach(({ node }, index) => {
        const span = body.children[index] ?? body.appendChild(element("span"));
        span.className = node.role;
        const words = wordsOf(node);
        if (span.textContent !== words) span.textContent = words;
      });
      while (body.children.length > all.length) body.lastElementChild?.remove();
      body.hidden = tools.hidden = editing;
      rewriting.show(editing, text());
      const { node, running, idle, longest } = end;
      showNotes(notes, notesOf(node, running, longest).filter((note) => note.does !== "carryOn" || note.bad), node.id, actions, idle);
      by.hidden = !end.by;
      by.textContent = end.by;
      turn.show(end.beside, node);
      edit.disabled = again.disabled = !idle;
      again.hidden = node.role === "user" || Boolean(running);
      look.hidden = !canLook(node) || Boolean(running);
    },
  };
}
