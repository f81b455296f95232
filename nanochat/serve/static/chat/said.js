// What a message says: a person's words as they are, a model's text, and its tool calls as small chips.

import { element } from "./dom.js";
import { createMarkdown } from "./markdown.js";
import { visible } from "./visible.js";

/**
 * @typedef {import("./tree.js").Part} Part
 * @typedef {{kind: "text" | "tool", parts: Part[]}} Group
 */

/**
 * @param {boolean} mine a person's own words
 */
export function createSaid(mine) {
  const body = element("div", "body");
  /** @type {{kind: "text" | "tool", show: (parts: Part[], streaming: boolean) => void, element: HTMLElement}[]} */
  const views = [];

  return {
    element: body,

    /**
     * @param {Part[]} parts
     * @param {string} [phase] of an answer that is on its way
     */
    show(parts, phase) {
      const seen = mine ? parts : visible(parts, phase !== undefined);
      body.classList.toggle("waiting", phase !== undefined && seen.length === 0);
      if (mine) {
        body.textContent = parts.map((part) => part.text).join("");
        return;
      }
      const groups = grouped(seen);
      groups.forEach(({ kind, parts }, index) => {
        if (views[index]?.kind !== kind) {
          for (const old of views.splice(index)) old.element.remove();
          views.push(kind === "tool" ? createTool() : createText());
          body.append(views[index].element);
        }
        views[index].show(parts, phase !== undefined && index === groups.length - 1);
      });
      for (const old of views.splice(groups.length)) old.element.remove();
    },
  };
}

/**
 * A call and what the tool said belong together.
 * @param {Part[]} parts
 * @returns {Group[]}
 */
function grouped(parts) {
  /** @type {Group[]} */
  const groups = [];
  for (const part of parts) {
    const last = groups.at(-1);
    if (part.type === "python_output" && last?.kind === "tool") last.parts.push(part);
    else groups.push({ kind: part.type === "text" ? "text" : "tool", parts: [part] });
  }
  return groups;
}

/** @returns {{kind: "text", element: HTMLElement, show: (parts: Part[], streaming: boolean) => void}} */
function createText() {
  const { element, show } = createMarkdown();
  return { kind: "text", element, show: ([part], streaming) => show(part.text, streaming) };
}

/** @returns {{kind: "tool", element: HTMLElement, show: (parts: Part[]) => void}} */
function createTool() {
  const tool = element("span", "tool");
  return {
    kind: "tool",
    element: tool,
    show: (parts) => tool.replaceChildren(...parts.map((part) => element("span", part.type, part.text))),
  };
}
