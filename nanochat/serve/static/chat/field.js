// Fields that people write messages in.

const BY_ITSELF = CSS.supports("field-sizing", "content"); // which costs less while one types

/**
 * As high as what is in it.
 * @param {HTMLTextAreaElement} field
 */
export function fit(field) {
  if (BY_ITSELF) return;
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight}px`;
}

/**
 * Whether a key means "send". While an input method is composing, Enter chooses a word.
 * @param {KeyboardEvent} event
 */
export const sends = ({ key, shiftKey, isComposing, keyCode }) =>
  key === "Enter" && !shiftKey && !isComposing && keyCode !== 229; // 229: Safari ends composing before it tells of the key
