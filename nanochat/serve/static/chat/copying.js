// Into the clipboard, over plain http too, where browsers have no clipboard for scripts.

const TOLD = 1500; // ms that the button says how it went

/**
 * @param {string} text
 * @param {HTMLButtonElement} button says then that it is done
 */
export async function copy(text, button) {
  const done = await navigator.clipboard?.writeText(text).then(() => true, () => false);
  const words = done || copiedBySelection(text) ? "Copied" : "It could not be copied";
  button.dataset.says ??= button.textContent ?? "";
  button.textContent = words;
  setTimeout(() => (button.textContent = button.dataset.says ?? ""), TOLD);
}

/** @param {string} text */
function copiedBySelection(text) {
  const focused = document.activeElement;
  const field = document.createElement("textarea");
  field.value = text;
  field.readOnly = true;
  field.className = "unseen";
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  if (focused instanceof HTMLElement) focused.focus({ preventScroll: true });
  return done;
}
