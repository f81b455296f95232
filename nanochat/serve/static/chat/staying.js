// Has the browser keep conversations even when the disk gets full.

const ASKED = "nanochat-asked-to-stay";

let asked = false;

/** Once: most browsers decide for themselves, and one asks the person. */
export async function askToStay() {
  if (asked) return;
  asked = true;
  try {
    if (localStorage.getItem(ASKED) || (await navigator.storage.persisted())) return;
    localStorage.setItem(ASKED, "yes");
    await navigator.storage.persist();
  } catch {
    // plain http has no such thing
  }
}
