// What is told below an answer: how it stands with it, and what did not fit.

/**
 * @typedef {import("./tree.js").Node} Node
 * @typedef {import("./state.js").Running} Running
 * @typedef {{text: string, bad?: boolean, does?: "carryOn" | "hurry"}} Note
 *   does: what a button beside it does
 */

const ON_ITS_WAY = {
  asking: "",
  writing: "",
  loading: "The model is being loaded.",
  waiting: "Others are being answered first.",
  lost: "The connection was lost. It is being taken up again.",
  busy: "Too many are asking at once.",
  ending: "The server is ending.",
};

/** @param {number} ms */
const clock = (ms) => new Date(ms).toLocaleTimeString();

/**
 * @param {number} n
 * @param {string} what
 */
const some = (n, what) => `${n.toLocaleString("en")} ${what}${n === 1 ? "" : "s"}`;

/**
 * A server's words stand alone here.
 * @param {string} words
 */
const sentence = (words) => words.charAt(0).toUpperCase() + words.slice(1) + (/[.!?)]$/.test(words) ? "" : ".");

/**
 * @param {Node} node
 * @param {Running | undefined} running
 * @param {number | undefined} longest tokens that the server allows where nothing is set
 * @returns {Note[]}
 */
export function notesOf({ parts, tokens, start, end, settings }, running, longest) {
  /** @type {Note[]} */
  const notes = [];
  if (start?.left_out) {
    notes.push({ text: `The context is full: the first ${some(start.left_out, "message")} of this chat were left out.` });
  }
  if (start?.cut) {
    notes.push({ text: `This did not fit into the model's context: the first ${some(start.cut, "token")} of it were left out.` });
  }
  if (running) {
    const why = ON_ITS_WAY[running.phase];
    const again = running.again === null ? "" : ` This page asks again by itself at ${clock(running.again)}.`;
    if (why) notes.push({ text: why + again, ...(again && { does: "hurry" }) });
  } else if (end) {
    const goesOn = tokens?.length ? { does: /** @type {const} */ ("carryOn") } : {};
    const most = settings?.max_tokens ?? longest;
    const told = most === undefined ? "" : ` (${some(most, "token")})`;
    if (end.finish === "stop" && parts.length === 0) notes.push({ text: "The model had nothing to say." });
    if (end.finish === "length") notes.push({ text: `It reached the longest answer${told}.`, ...goesOn });
    if (end.finish === "window") notes.push({ text: sentence(end.error || "The model's context is full: it cannot go on here.") });
    if (end.finish === "stopped") notes.push({ text: "Stopped.", ...goesOn });
    if (end.finish === "failed") notes.push({ text: sentence(end.error || "The answer failed."), bad: true, ...goesOn });
  }
  return notes;
}
