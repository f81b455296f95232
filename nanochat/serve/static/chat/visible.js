// What of an answer a person is shown: all but the tool calls that have no result. As in nanochat/inference/visible.py.

/** @typedef {import("./tree.js").Part} Part */

const BLANK = /^[ \t\r\n]*$/;

/**
 * A call that is left out takes the blank behind it along where there is one before. Where an answer says nothing else,
 * its calls are shown when it has come to its end: better than no answer.
 * @param {Part[]} parts
 * @param {boolean} [running] more may come
 * @returns {Part[]}
 */
export function visible(parts, running = false) {
  const said = parts.filter((part) => part.text);
  /** @type {Part[]} */
  const seen = [];
  let gap = false; // a call was left out just now
  said.forEach(({ type, text }, at) => {
    if (type === "python" && said[at + 1]?.type !== "python_output") {
      gap = true;
      return;
    }
    const last = seen.at(-1);
    if (type === "text" && gap) {
      if (seen.every(isBlank)) text = text.replace(/^[ \t\r\n]+/, "");
      else if (last?.type !== "text" || BLANK.test(last.text.slice(-1))) text = text.replace(/^ +/, "");
      if (!text) return;
    }
    gap = false;
    if (type === "text" && last?.type === "text") seen[seen.length - 1] = { type, text: last.text + text };
    else seen.push({ type, text });
  });
  return running || !seen.every(isBlank) ? seen : said;
}

/** @param {Part} part */
const isBlank = ({ type, text }) => type === "text" && BLANK.test(text);
