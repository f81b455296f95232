// What was written and not sent yet, of each conversation.

const KEY = "nanochat-drafts";
const LONGEST = 1_000_000; // characters that are remembered of one
const MOST = 50; // conversations

/** @returns {Record<string, string>} */
function drafts() {
  try {
    const found = JSON.parse(localStorage.getItem(KEY) ?? "{}");
    return found && typeof found === "object" && !Array.isArray(found) ? found : {};
  } catch {
    return {}; // no storage, or something else in it
  }
}

/** @param {string} conversation "" for a new one */
export function draftOf(conversation) {
  const found = drafts()[conversation];
  return typeof found === "string" ? found : "";
}

/**
 * @param {string} conversation "" for a new one
 * @param {string} text
 */
export function keepDraft(conversation, text) {
  const { [conversation]: _, ...others } = drafts();
  const kept = Object.entries(others).slice(-MOST);
  if (text && text.length <= LONGEST) kept.push([conversation, text]);
  for (;;) {
    try {
      return localStorage.setItem(KEY, JSON.stringify(Object.fromEntries(kept)));
    } catch {
      if (kept.length < 2) return; // it lasts as long as the page
      kept.shift(); // the oldest makes room
    }
  }
}

/** @param {string} conversation */
export const forgetDraft = (conversation) => keepDraft(conversation, "");
