// What the person chose last: remembered from one visit to the next.

const KEY = "nanochat-choice";

/**
 * chosen: the model that answers, null for the server's own. second: the one beside it, null for none. panel: it is open.
 * @typedef {{chosen: string | null, second: string | null, panel: boolean}} Choice
 */

/** @returns {Choice} */
export function rememberedChoice() {
  try {
    const { chosen, second, panel } = JSON.parse(localStorage.getItem(KEY) ?? "{}");
    const name = (/** @type {unknown} */ id) => (typeof id === "string" && id ? id : null);
    return { chosen: name(chosen), second: name(second), panel: panel === true };
  } catch {
    return { chosen: null, second: null, panel: false }; // no storage, or something else in it
  }
}

/** @param {Partial<Choice>} choice */
export function rememberChoice(choice) {
  try {
    localStorage.setItem(KEY, JSON.stringify({ ...rememberedChoice(), ...choice }));
  } catch {
    // it lasts as long as the page
  }
}
