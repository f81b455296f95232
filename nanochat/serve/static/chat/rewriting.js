// A message in a field in which it is rewritten.

import { button, element } from "./dom.js";
import { fit, sends } from "./field.js";

/**
 * @param {(text: string) => void} save
 * @param {() => void} cancel
 * @param {string} [words] what the button says that saves
 * @param {string} [label] what is written
 */
export function createRewriting(save, cancel, words = "Ask again", label = "Your message") {
  const root = element("div");
  root.hidden = true;

  return {
    element: root,

    /**
     * @param {boolean} open
     * @param {string} text
     */
    show(open, text) {
      if (open === !root.hidden) return; // what is being written stays
      root.hidden = !open;
      if (!open) return root.replaceChildren();
      const { form, field } = made(text, save, cancel, words, label);
      root.replaceChildren(form);
      fit(field);
      field.focus();
    },
  };
}

/**
 * @param {string} text
 * @param {(text: string) => void} save
 * @param {() => void} cancel
 * @param {string} words
 * @param {string} label
 */
function made(text, save, cancel, words, label) {
  const form = element("div", "rewriting"); // a frame may forbid forms to submit
  const field = element("textarea");
  const ask = () => field.value.trim() && save(field.value);
  const send = button(words, ask);
  const row = element("div", "row");
  field.setAttribute("aria-label", label);
  field.value = text;
  send.className = "primary";
  send.disabled = !text.trim();
  row.append(button("Cancel", cancel), send);
  form.append(field, row);
  field.addEventListener("input", () => {
    fit(field);
    send.disabled = !field.value.trim();
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      event.stopPropagation();
      cancel();
    } else if (event.target === field && sends(event)) {
      event.preventDefault();
      ask();
    }
  });
  return { form, field };
}
