// Which models the person chose last: remembered from one visit to the next.

const KEY = "nanochat-models";

/**
 * chosen: answers, null for the server's own. second: answers beside it, null for none.
 * @returns {{chosen: string | null, second: string | null}}
 */
export function rememberedChoice() {
  try {
    const { chosen, second } = JSON.parse(localStorage.getItem(KEY) ?? "{}");
    return { chosen: typeof chosen === "string" ? chosen : null, second: typeof second === "string" ? second : null };
  } catch {
    return { chosen: null, second: null }; // no storage, or something else in it
  }
}

/** @param {{chosen: string | null, second: string | null}} choice */
export function rememberChoice({ chosen, second }) {
  try {
    localStorage.setItem(KEY, JSON.stringify({ chosen, second }));
  } catch {
    // it lasts as long as the page
  }
}
