// Where messages are written.

import { place } from "./dom.js";
import { fit, sends } from "./field.js";
import { MESSAGE } from "./limits.js";

/**
 * @typedef {{busy: boolean, away: boolean, mode: "chat" | "text", begun: boolean, counted: import("./state.js").Counted}} Shown
 *   busy: an answer is on its way here; away: nothing can be sent; begun: something was said already
 */

/**
 * @param {{
 *   send: (text: string) => boolean, stop: () => void, draft: (text: string) => void, editLast: () => void
 * }} actions
 */
export function createComposer(actions) {
  const input = /** @type {HTMLTextAreaElement} */ (place("input"));
  const send = /** @type {HTMLButtonElement} */ (place("send"));
  const stop = /** @type {HTMLButtonElement} */ (place("stop"));
  const hint = place("hint");
  const keys = [...hint.childNodes];
  let said = "";
  /** @type {Shown} */
  let now = { busy: false, away: false, mode: "chat", begun: false, counted: null };

  /** In a text that is continued nothing need be added. */
  const sendable = () => !tooLong() && ((now.mode === "text" && now.begun) || Boolean(input.value.trim()));
  const tooLong = () => now.mode === "chat" && input.value.length > MESSAGE;

  function show() {
    const { busy, away, mode, begun, counted } = now;
    const hadFocus = document.activeElement === send || document.activeElement === stop;
    send.hidden = busy;
    stop.hidden = !busy;
    send.disabled = away || !sendable();
    send.textContent = mode === "text" ? "Continue" : "Send";
    input.placeholder = mode === "chat" ? "Write a message" : begun ? "Write on, or let the model continue" : "Begin a text";
    if (hadFocus && !(busy ? stop : send).disabled) (busy ? stop : send).focus();
    const told = tooLong() ? longer(input.value.length) : toldOf(counted);
    if (told === said) return;
    said = told;
    hint.classList.toggle("bad", Boolean(told));
    hint.replaceChildren(...(told ? [told] : keys));
  }

  /** @param {string} text */
  function fill(text) {
    input.value = text;
    fit(input);
    show();
  }

  // Not on "submit": a frame may forbid that to all forms in it.
  const ask = () => !now.busy && !now.away && sendable() && actions.send(input.value) && fill("");
  send.addEventListener("click", (event) => {
    event.preventDefault();
    ask();
  });
  input.addEventListener("input", () => {
    fit(input);
    show();
    actions.draft(input.value);
  });
  input.addEventListener("keydown", (event) => {
    if (sends(event)) {
      event.preventDefault();
      ask();
    } else if (event.key === "ArrowUp" && !input.value && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      actions.editLast();
    }
  });
  stop.addEventListener("click", () => {
    actions.stop();
    input.focus();
  });
  addEventListener("resize", () => fit(input));

  return {
    fill,
    focus: () => input.focus(),
    text: () => input.value,

    /** @param {Shown} shown */
    show(shown) {
      now = shown;
      show();
    },
  };
}

/** @param {number} length */
function longer(length) {
  const [has, most] = [length, MESSAGE].map((number) => number.toLocaleString("en"));
  return `This has ${has} characters, and a message may have ${most}: shorten it, or send it in parts.`;
}

/** @param {import("./state.js").Counted} counted */
function toldOf(counted) {
  if (!counted) return "";
  if ("problem" in counted) return counted.problem;
  const [tokens, window] = [counted.tokens, counted.window].map((number) => number.toLocaleString("en"));
  if (counted.tokens < counted.window) return "";
  return `This is ${tokens} tokens long, and the model sees ${window}, its answer included: the beginning will be left out.`;
}
