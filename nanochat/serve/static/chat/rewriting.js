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
  const form = element("form", "rewriting");
  const field = element("textarea");
  const send = element("button", "primary", words);
  field.setAttribute("aria-label", label);
  const row = element("div", "row");
  row.append(button("Cancel", cancel), send);
  form.append(field, row);
  form.hidden = true;
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (field.value.trim()) save(field.value);
  });
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
      form.requestSubmit();
    }
  });

  return {
    element: form,

    /**
     * @param {boolean} open
     * @param {string} text
     */
    show(open, text) {
      if (open === !form.hidden) return; // what is being written stays
      form.hidden = !open;
      if (!open) return;
      field.value = text;
      send.disabled = !text.trim();
      fit(field);
      field.focus();
    },
  };
}
