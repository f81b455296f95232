// The text of a paragraph: emphasis, code, links. In time that grows with the text, whatever the text.

/**
 * @typedef {{type: "text" | "code", text: string}
 *   | {type: "break"}
 *   | {type: "em" | "strong" | "strike", children: Inline[]}
 *   | {type: "link", href: string, children: Inline[]}
 *   | {type: "image", href: string, text: string}} Inline
 * @typedef {{
 *   char: string, count: number, whole: number, opens: boolean, closes: boolean, bounded: boolean,
 *   ends: number[], begins: number[]
 * }} Run a run of * _ or ~; ends and begins: how many of its characters close and open something, the innermost first
 * @typedef {{image: boolean, pieces: number, runs: number}} Bracket where one was opened
 */

const DEEPEST = 20; // emphasis inside emphasis; what is deeper stays as it was typed
const LONGEST_ADDRESS = 2000;
const SPECIAL = /[\\`*_~[\]<\n]|!\[|https?:\/\//gi;
const AUTOLINK = /<([a-z][a-z0-9+.-]{1,31}:[^\s<>]*)>/iy;
const MAIL = /<([\w.!#$%&'*+/=?^`{|}~-]{1,64}@[a-z0-9-]+(?:\.[a-z0-9-]+)*)>/iy;
const BARE = /https?:\/\/[^\s<>[\]`"|\\]{1,2001}/iy; // longer than the longest address
const PUNCTUATION = /[!-/:-@[-`{-~]/;
const UNFINISHED = /(?:[*_~`\\]{1,6}|!?\[)$/; // what may yet become something else

/**
 * The address of a link that may be followed, or null. Only of the web and of mail: no script, no data, no file.
 * @param {string} address
 */
export function safeAddress(address) {
  if (address.length > LONGEST_ADDRESS || !/^(?:https?:\/\/|mailto:)[^\s\\\p{C}]+$/iu.test(address)) return null;
  try {
    const url = new URL(address);
    return ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

/**
 * @param {string} source
 * @param {boolean} [unfinished] more of it is to come: what is open counts as closed where it ends
 * @returns {Inline[]}
 */
export function parseInline(source, unfinished = false) {
  const text = unfinished ? source.replace(UNFINISHED, "") : source;
  const findTicks = ticksOf(text);
  /** @type {(Inline | Run | string)[]} */
  const pieces = [];
  /** @type {Run[]} */
  const runs = [];
  /** @type {Bracket[]} */
  const brackets = [];
  let inactive = 0; // so many of the brackets cannot begin a link, since one within them ends here
  let at = 0;
  while (at < text.length) {
    SPECIAL.lastIndex = at;
    const found = SPECIAL.exec(text);
    const from = found ? found.index : text.length;
    if (from > at) pieces.push(text.slice(at, from));
    if (!found) break;
    at = from + found[0].length;
    const char = found[0][0];
    if (char === "\\") {
      if (text[at] === "\n") {
        pieces.push({ type: "break" });
        at = afterBlanks(text, at + 1);
      } else {
        pieces.push(PUNCTUATION.test(text[at] ?? "") ? text[at++] : "\\");
      }
    } else if (char === "\n") {
      const spaces = trimEnd(pieces);
      pieces.push(spaces >= 2 ? { type: "break" } : "\n");
      at = afterBlanks(text, at);
    } else if (char === "`") {
      const length = runLength(text, from);
      const end = findTicks(length, from + length) ?? (unfinished ? text.length : null);
      at = from + length;
      if (end === null) {
        pieces.push("`".repeat(length));
      } else {
        pieces.push({ type: "code", text: codeText(text.slice(at, end)) });
        at = Math.min(text.length, end + length);
      }
    } else if (char === "<") {
      const [link, length] = autolink(text, from);
      pieces.push(link);
      at = from + length;
    } else if (char.toLowerCase() === "h") {
      const [link, length] = bareLink(text, from);
      pieces.push(link);
      at = from + length;
    } else if (char === "[" || char === "!") {
      brackets.push({ image: char === "!", pieces: pieces.length, runs: runs.length });
      pieces.push(found[0]);
    } else if (char === "]") {
      const bracket = brackets.pop();
      const active = bracket && (bracket.image || brackets.length >= inactive);
      inactive = Math.min(inactive, brackets.length);
      const target = active ? destination(text, at) : null;
      const pending = active && unfinished && !target && /^\([^\s()<>]*$/.test(text.slice(at, at + LONGEST_ADDRESS));
      if (!bracket || (!target && !pending)) {
        pieces.push("]");
        continue;
      }
      const inner = tree(pieces.splice(bracket.pieces).slice(1), runs.splice(bracket.runs), false);
      if (!target) {
        pieces.push(...inner);
        break; // its address is still to come
      }
      if (bracket.image) {
        pieces.push({ type: "image", href: target.href, text: plain(inner) });
      } else {
        pieces.push({ type: "link", href: target.href, children: withoutLinks(inner) });
        inactive = brackets.length;
      }
      at = target.end;
    } else {
      const length = runLength(text, from);
      at = from + length;
      if (char === "~" && length !== 2) {
        pieces.push(text.slice(from, at));
      } else {
        const run = makeRun(text, from, length);
        pieces.push(run);
        runs.push(run);
      }
    }
  }
  return tree(pieces, runs, unfinished);
}

/** @param {string} text @param {number} from */
function runLength(text, from) {
  let end = from + 1;
  while (text[end] === text[from]) end++;
  return end - from;
}

/** @param {string} text @param {number} at */
function afterBlanks(text, at) {
  while (text[at] === " " || text[at] === "\t") at++;
  return at;
}

/**
 * Takes the blanks from the end of a line; how many they were.
 * @param {(Inline | Run | string)[]} pieces
 */
function trimEnd(pieces) {
  const last = pieces[pieces.length - 1];
  if (typeof last !== "string") return 0;
  let end = last.length;
  while (last[end - 1] === " ") end--;
  pieces[pieces.length - 1] = last.slice(0, end);
  return last.length - end;
}

/**
 * Finds the next run of exactly so many backticks. To be asked for places that only grow.
 * @param {string} text
 */
function ticksOf(text) {
  /** @type {Map<number, {places: number[], next: number}> | null} */
  let known = null;
  /** @param {number} length @param {number} from @returns {number | null} */
  return (length, from) => {
    if (!known) {
      known = new Map();
      for (const { index, 0: ticks } of text.matchAll(/`+/g)) {
        const same = known.get(ticks.length);
        if (same) same.places.push(index);
        else known.set(ticks.length, { places: [index], next: 0 });
      }
    }
    const same = known.get(length);
    if (!same) return null;
    while (same.next < same.places.length && same.places[same.next] < from) same.next++;
    return same.places[same.next] ?? null;
  };
}

/** @param {string} source */
function codeText(source) {
  const text = source.replaceAll("\n", " ");
  const padded = text.length > 2 && text[0] === " " && text[text.length - 1] === " " && text.trim() !== "";
  return padded ? text.slice(1, -1) : text;
}

/**
 * <https://example.com> or <someone@example.com>
 * @param {string} text
 * @param {number} from
 * @returns {[Inline | string, number]} the length that was used up comes with it
 */
function autolink(text, from) {
  for (const [pattern, scheme] of /** @type {[RegExp, string][]} */ ([[AUTOLINK, ""], [MAIL, "mailto:"]])) {
    pattern.lastIndex = from;
    const found = pattern.exec(text);
    const href = found && safeAddress(scheme + found[1]);
    if (href) return [{ type: "link", href, children: [{ type: "text", text: found[1] }] }, found[0].length];
  }
  return ["<", 1];
}

/**
 * An address that stands in the text. Punctuation at its end belongs to the sentence.
 * @param {string} text
 * @param {number} from
 * @returns {[Inline | string, number]}
 */
function bareLink(text, from) {
  BARE.lastIndex = from;
  const found = BARE.exec(text)?.[0] ?? "";
  let open = 0;
  for (const char of found) open += char === "(" ? 1 : char === ")" ? -1 : 0;
  let end = found.length;
  for (; end > 0; end--) {
    if (found[end - 1] === ")") {
      if (open >= 0) break;
      open++;
    } else if (!/[?!.,:;*_~'’。，、）]/.test(found[end - 1])) {
      break;
    }
  }
  const shown = found.slice(0, end);
  const href = /\w/.test(text[from - 1] ?? "") ? null : safeAddress(shown);
  if (href) return [{ type: "link", href, children: [{ type: "text", text: shown }] }, end];
  return [shown || text[from], Math.max(end, 1)];
}

/**
 * The (address "title") after a link's text. The title is not shown: the page shows the address in its place.
 * @param {string} text
 * @param {number} from
 */
function destination(text, from) {
  if (text[from] !== "(") return null;
  let at = afterSpace(text, from + 1);
  const start = at;
  let address;
  if (text[at] === "<") {
    while (++at < text.length && text[at] !== ">") {
      if (text[at] === "<" || text[at] === "\n" || at - start > LONGEST_ADDRESS) return null;
      if (text[at] === "\\") at++;
    }
    address = text.slice(start + 1, at++).replaceAll(" ", "%20");
  } else {
    let depth = 0;
    for (; at < text.length && !/[\s\p{Cc}]/u.test(text[at]); at++) {
      if (text[at] === "\\" && PUNCTUATION.test(text[at + 1] ?? "")) at++;
      else if (text[at] === "(") depth++;
      else if (text[at] === ")" && depth-- === 0) break;
      if (depth > 32 || at - start > LONGEST_ADDRESS) return null;
    }
    address = text.slice(start, at);
  }
  const blank = afterSpace(text, at);
  const closing = { '"': '"', "'": "'", "(": ")" }[text[blank] ?? ""];
  if (closing && blank > at) {
    for (at = blank + 1; text[at] !== closing; at++) {
      if (at >= text.length || at - blank > LONGEST_ADDRESS) return null;
      if (text[at] === "\\") at++;
    }
    at = afterSpace(text, at + 1);
  } else {
    at = blank;
  }
  const href = text[at] === ")" ? safeAddress(address.replace(/\\([!-/:-@[-`{-~])/g, "$1")) : null;
  return href === null ? null : { href, end: at + 1 };
}

/** @param {string} text @param {number} at */
function afterSpace(text, at) {
  while (/\s/.test(text[at] ?? "")) at++;
  return at;
}

/**
 * Whether a run can open or close depends on what stands before and after it.
 * @param {string} text
 * @param {number} from
 * @param {number} length
 * @returns {Run}
 */
function makeRun(text, from, length) {
  const char = text[from];
  const before = [...text.slice(Math.max(0, from - 2), from)].pop() ?? " ";
  const after = [...text.slice(from + length, from + length + 2)][0] ?? " ";
  const [spaceBefore, spaceAfter] = [/\s/u.test(before), /\s/u.test(after)];
  const [markBefore, markAfter] = [/[\p{P}\p{S}]/u.test(before), /[\p{P}\p{S}]/u.test(after)];
  const left = !spaceAfter && (!markAfter || spaceBefore || markBefore);
  const right = !spaceBefore && (!markBefore || spaceAfter || markAfter);
  const inWord = char === "_";
  return {
    char, count: length, whole: length, bounded: left && !right, ends: [], begins: [],
    opens: left && (!inWord || !right || markBefore),
    closes: right && (!inWord || !left || markAfter),
  };
}

/**
 * Finds for each run that can close one that can open.
 * @param {Run[]} runs
 * @param {boolean} unfinished
 */
function pair(runs, unfinished) {
  /** @type {Run[]} */
  const openers = [];
  /** @type {Map<string, number>} below these places there is nothing for a closer of this kind */
  const floors = new Map();
  for (const closer of runs) {
    const kind = `${closer.char}${closer.opens}${closer.whole % 3}`;
    while (closer.closes && closer.count > 0) {
      const floor = floors.get(kind) ?? 0;
      let at = openers.length - 1;
      while (at >= floor && !fits(openers[at], closer)) at--;
      if (at < floor) {
        floors.set(kind, openers.length);
        break;
      }
      const opener = openers[at];
      const size = opener.count >= 2 && closer.count >= 2 ? 2 : 1;
      opener.begins.push(size);
      closer.ends.push(size);
      opener.count -= size;
      closer.count -= size;
      openers.length = opener.count > 0 ? at + 1 : at;
      for (const [known, place] of floors) floors.set(known, Math.min(place, openers.length));
    }
    if (closer.opens && closer.count > 0) openers.push(closer);
  }
  if (!unfinished) return;
  for (const opener of openers) {
    if (!opener.bounded || opener.count > 3) continue; // as in 2*3
    if (opener.count !== 2) opener.begins.push(1);
    if (opener.count >= 2) opener.begins.push(2);
    opener.count = 0;
  }
}

/** @param {Run} opener @param {Run} closer */
function fits(opener, closer) {
  if (opener.char !== closer.char) return false;
  if (!opener.closes && !closer.opens) return true;
  return (opener.whole + closer.whole) % 3 !== 0 || (opener.whole % 3 === 0 && closer.whole % 3 === 0);
}

/**
 * @param {(Inline | Run | string)[]} pieces
 * @param {Run[]} runs those among the pieces
 * @param {boolean} unfinished
 * @returns {Inline[]}
 */
function tree(pieces, runs, unfinished) {
  pair(runs, unfinished);
  /** @type {Inline[]} */
  const root = [];
  const open = [root];
  let beyond = 0; // how many are open that are too deep
  /** @param {string} text */
  const write = (text) => {
    const into = open[open.length - 1];
    const last = into[into.length - 1];
    if (last?.type === "text") last.text += text;
    else if (text) into.push({ type: "text", text });
  };
  for (const piece of pieces) {
    if (typeof piece === "string") {
      write(piece);
    } else if ("type" in piece) {
      open[open.length - 1].push(piece);
    } else {
      for (const size of piece.ends) {
        if (beyond > 0) {
          beyond--;
          write(piece.char.repeat(size));
        } else {
          open.pop();
        }
      }
      write(piece.char.repeat(piece.count));
      for (const size of piece.begins.reverse()) {
        if (open.length > DEEPEST) {
          beyond++;
          write(piece.char.repeat(size));
        } else {
          /** @type {Inline[]} */
          const children = [];
          open[open.length - 1].push({ type: piece.char === "~" ? "strike" : size === 2 ? "strong" : "em", children });
          open.push(children);
        }
      }
    }
  }
  return root;
}

/** @param {Inline[]} children @returns {string} */
function plain(children) {
  return children
    .map((child) => ("children" in child ? plain(child.children) : "text" in child ? child.text : "\n"))
    .join("");
}

/**
 * A link has no link within.
 * @param {Inline[]} children
 * @returns {Inline[]}
 */
function withoutLinks(children) {
  /** @type {Inline[]} */
  const found = [];
  /** @param {Inline} child */
  const add = (child) => {
    const last = found[found.length - 1];
    if (child.type === "text" && last?.type === "text") last.text += child.text;
    else found.push(child);
  };
  for (const child of children) {
    if (child.type === "image") add({ type: "text", text: child.text });
    else if (child.type === "link") child.children.forEach(add);
    else if ("children" in child) add({ ...child, children: withoutLinks(child.children) });
    else add(child);
  }
  return found;
}
