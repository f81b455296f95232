// How the page's elements are made. What people and models wrote enters them as text and in no other way.

/**
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {string} [className]
 * @param {string} [text]
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

/**
 * @param {string} text
 * @param {(event: MouseEvent) => void} action
 * @param {string} [label] what a screen reader says, where the text alone does not tell it
 */
export function button(text, action, label) {
  const made = element("button", "", text);
  made.type = "button";
  made.addEventListener("click", action);
  if (label) {
    made.setAttribute("aria-label", label);
    made.title = label;
  }
  return made;
}

/**
 * An element of index.html.
 * @param {string} id
 */
export function place(id) {
  return /** @type {HTMLElement} */ (document.getElementById(id));
}
