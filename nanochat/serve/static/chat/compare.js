// Two answers to one question, by two models, in two columns. One of them is the one that the conversation goes on from.

import { calm } from "./calm.js";
import { nameOf } from "./checkpoints.js";
import { button, element } from "./dom.js";
import { createMessage, createTurn } from "./message.js";
import { createPace, secondsOf, speedOf } from "./pace.js";

/**
 * @typedef {import("./message.js").Shown} Message
 * @typedef {import("./message.js").Actions} Actions
 * @typedef {{message: Message, continues: boolean}} Column
 *   message: whose `beside` are the answers of this side; continues: the model gets the question as a text
 * @typedef {{columns: Column[], followed: string, beside: import("./tree.js").Node[]}} Shown
 *   followed: the node that the conversation goes on from; beside: what else can stand in the place of both columns
 */

/** @param {Actions} actions */
export function createCompare(actions) {
  const group = element("div", "compare");
  group.setAttribute("role", "group");
  group.setAttribute("aria-label", "Two answers side by side");
  const columns = element("div", "columns");
  const turn = createTurn((node) => actions.choose(node));
  group.append(columns, turn.element);
  const views = [createColumn(actions), createColumn(actions)];
  columns.append(...views.map((view) => view.element));

  return {
    element: group,

    /** @param {Shown} shown */
    show({ columns, followed, beside }) {
      columns.forEach((column, side) => views[side].show(column, column.message.node.id === followed));
      const node = beside.find((one) => one.id === followed);
      if (node) turn.show(beside, node);
    },
  };
}

/** @param {Actions} actions */
function createColumn(actions) {
  const column = element("section", "column");
  const title = element("h3");
  const name = element("bdi");
  const told = element("p", "hint");
  const continues = element("p", "hint", "This model continues text: it got your question as a text to go on with.");
  const place = element("div");
  title.append(name);
  const goOn = button("Go on from this one", () => actions.choose(id));
  goOn.className = "go-on";
  column.append(title, told, continues, place, goOn);
  const pace = createPace();
  let id = "";
  /** @type {ReturnType<typeof createMessage> | undefined} */
  let message;

  const showPace = calm((/** @type {import("./pace.js").Pace} */ { speed, first }) => {
    const words = [speed === null ? "" : speedOf(speed), first === null ? "" : `first token after ${secondsOf(first)}`];
    told.textContent = words.filter(Boolean).join(", ");
  });

  return {
    element: column,

    /**
     * @param {Column} shown
     * @param {boolean} followed
     */
    show({ message: shown, continues: asText }, followed) {
      const { node, running } = shown;
      if (!message || id !== node.id) {
        id = node.id;
        message = createMessage(shown, actions);
        place.replaceChildren(message.element);
      }
      message.show(shown);
      name.textContent = node.model ? nameOf(node.model) : "";
      continues.hidden = !asText;
      showPace(pace(node, Boolean(running)));
      column.classList.toggle("followed", followed);
      goOn.setAttribute("aria-pressed", String(followed));
    },
  };
}
