// Markdown as models write it: from text to blocks, line by line. HTML is text. Pure, and in time that grows with the text.
//
// As in CommonMark, with GitHub's tables, tasks and strikes, but for this: no HTML, no entities, no reference links; lists
// are never loose; a row of a table may have more or fewer cells than its head; only addresses of the web and of mail are
// links; images are links, too; what is nested deeper than anybody writes is text.

import { parseInline } from "./markdown_inline.js";

/**
 * @typedef {import("./markdown_inline.js").Inline} Inline
 * @typedef {{type: "paragraph", text: string, open: boolean}} Paragraph
 * @typedef {{type: "heading", level: number, text: string, open: boolean}} Heading
 * @typedef {{type: "cell", head: boolean, align: string, text: string, open: boolean}} Cell
 * @typedef {Paragraph | Heading | Cell} Leaf its text is for parseInline; open: more of it is to come
 * @typedef {{type: "code", label: string, text: string}} Code
 * @typedef {{type: "rule"}} Rule
 * @typedef {{type: "quote", blocks: Block[]}} Quote
 * @typedef {{type: "list", ordered: boolean, start: number, mark: string, blocks: Block[]}} List
 * @typedef {{type: "item", done: boolean | null, blocks: Block[]}} Item
 * @typedef {{type: "table", align: string[], blocks: Block[]}} Table
 * @typedef {{type: "row", blocks: Block[]}} Row
 * @typedef {Quote | List | Item | Table | Row} Container
 * @typedef {Leaf | Code | Rule | Container} Block
 * @typedef {{kind: "paragraph", block: Paragraph, lines: string[], at: number}
 *   | {kind: "code", block: Code, lines: string[], fence: string, indent: number}
 *   | {kind: "table", block: Table}} Growing
 *   a block that may go on with the next line; at: where its last line begins
 */

const DEEPEST = 16; // quotes and items inside each other
const MOST_COLUMNS = 100;
const FENCE = /^(?:(`{3,})([^`]*)|(~{3,})(.*))$/;
const ITEM = /^(?:([-*+])|(\d{1,9})([.)]))(?=[ \t]|$)/;
const RULE = /^(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const UNDERLINE = /^(?:=+|-+)[ \t]*$/;
const DELIMITERS = /^\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?$/; // of a line without blanks at its end
const TASK = /^\[([ xX])\][ \t]+(?=\S)/;
const LINE_END = /\r\n|\n|\r/g;
/** A last line that may yet become something else: marks alone, or the beginning of a fence. */
const UNSETTLED =
  /^[ \t>]*(?:(?:[-*+]|\d{1,9}[.)])[ \t]+)*(?:[-=*_+#~`|:\s]*|\d{1,9}[.)]?|\[[ xX]?\]?[ \t]*|(?:`{3,}|~{3,})[^`]*)$/;

/** @typedef {Exclude<Block, Container> & {inline?: Inline[]} | Omit<Container, "blocks"> & {blocks: Parsed[]}} Parsed */

/**
 * @param {string} text
 * @returns {Parsed[]} blocks, with the inline pieces of those that have any
 */
export function parse(text) {
  /** @param {Block} block @returns {Parsed} */
  const whole = (block) => {
    if ("blocks" in block) return { ...block, blocks: block.blocks.map(whole) };
    return "open" in block ? { ...block, inline: parseInline(block.text) } : block;
  };
  return parseBlocks(text).blocks.map(whole);
}

/**
 * @param {string} text
 * @param {boolean} [streaming] more of it is to come: its end is left out as long as it may become something else
 * @returns {{blocks: Block[], settled: number, from: number}} So many blocks stay as they are whatever the text goes on
 *   with, and the others are those of the text from there on.
 */
export function parseBlocks(text, streaming = false) {
  const reader = new Reader();
  let start = 0;
  for (const { index, 0: end } of text.matchAll(LINE_END)) {
    reader.read(text.slice(start, index), start);
    start = index + end.length;
  }
  const last = text.slice(start);
  if (last && !(streaming && last.length <= 120 && UNSETTLED.test(last))) reader.read(last, start);
  return reader.finish(streaming);
}

/** Takes a text line by line. */
class Reader {
  /** @type {Block[]} */
  blocks = [];
  settled = 0;
  from = 0;
  /** @type {{block: Quote | Item, indent: number}[]} the open containers; indent: of what stands in an item */
  stack = [];
  /** @type {Growing | null} in the innermost of them */
  leaf = null;
  /** @type {Leaf | null} where the last line went */
  tip = null;

  // The line that is being read, and how far.
  line = "";
  start = 0; // its place in the text
  at = 0;
  column = 0;
  inTab = 0; // columns of a tab that are still to come; a tab goes on to the next multiple of four

  /** @param {string} line @param {number} start */
  read(line, start) {
    this.line = line.includes("\0") ? line.replaceAll("\0", "\ufffd") : line;
    this.start = start;
    this.at = this.column = this.inTab = 0;
    let depth = 0;
    while (depth < this.stack.length && this.goesOn(this.stack[depth])) depth++;
    let matched = depth === this.stack.length;
    if (this.leaf?.kind === "code") {
      if (matched && this.addCode(this.leaf)) return;
      this.close();
    } else if (this.leaf?.kind === "table" && !matched) {
      this.close();
    }
    this.tip = null;
    if (this.rest() === "") {
      this.enter(depth);
      return;
    }
    // A paragraph that the line goes on with, unless it begins a block: also from outside of its quote or item.
    let paragraph = this.leaf?.kind === "paragraph" ? this.leaf : null;
    for (;;) {
      const begun = this.begin(depth, matched ? paragraph : null, paragraph !== null);
      if (begun === "block") return;
      if (begun === "text") break;
      depth++;
      matched = true;
      paragraph = null;
      if (this.rest() === "") return;
    }
    const text = this.rest();
    if (paragraph) {
      paragraph.lines.push(text);
      paragraph.at = start;
      this.tip = paragraph.block;
    } else if (this.leaf?.kind === "table") {
      this.leaf.block.blocks.push(this.row(text, this.leaf.block.align, false));
    } else {
      this.enter(depth);
      this.addParagraph(text);
    }
  }

  /**
   * Begins the block that the rest of the line begins, if it does.
   * @param {number} depth of the containers that the line is in
   * @param {Extract<Growing, {kind: "paragraph"}> | null} paragraph the one that is right here
   * @param {boolean} lazy whether there is one, here or further in
   * @returns {"block" | "container" | "text"} container: there may be more in it
   */
  begin(depth, paragraph, lazy) {
    const indent = this.indent();
    const rest = this.rest();
    if (indent >= 4) {
      if (lazy) return "text";
      this.enter(depth);
      this.skip(4);
      /** @type {Code} */
      const block = { type: "code", label: "", text: "" };
      this.add(block);
      this.leaf = { kind: "code", block, lines: [this.remaining()], fence: "", indent: 0 };
      return "block";
    }
    if (rest[0] === ">" && depth < DEEPEST) {
      this.enter(depth);
      this.skipMark(indent);
      /** @type {Quote} */
      const block = { type: "quote", blocks: [] };
      this.add(block);
      this.stack.push({ block, indent: 0 });
      return "container";
    }
    const level = /^#{1,6}(?=[ \t]|$)/.exec(rest)?.[0].length;
    if (level) {
      this.enter(depth);
      this.tip = { type: "heading", level, text: headingText(rest.slice(level)), open: false };
      this.add(this.tip);
      return "block";
    }
    const fence = FENCE.exec(rest);
    if (fence) {
      this.enter(depth);
      /** @type {Code} */
      const block = { type: "code", label: (fence[2] ?? fence[4]).trim(), text: "" };
      this.add(block);
      this.leaf = { kind: "code", block, lines: [], fence: fence[1] ?? fence[3], indent };
      return "block";
    }
    if (paragraph && UNDERLINE.test(rest)) {
      this.tip = { type: "heading", level: rest[0] === "=" ? 1 : 2, text: paragraph.lines.join("\n").trimEnd(), open: false };
      this.here().splice(-1, 1, this.tip);
      this.leaf = null;
      return "block";
    }
    if (RULE.test(rest)) {
      this.enter(depth);
      this.add({ type: "rule" });
      return "block";
    }
    const item = depth < DEEPEST ? ITEM.exec(rest) : null;
    const empty = item !== null && rest.slice(item[0].length).trim() === "";
    // In a paragraph, a number at the begin of a line is a number.
    if (item && !(paragraph && (empty || (item[2] && Number(item[2]) !== 1)))) {
      this.enter(depth);
      this.addItem(item, indent, empty);
      return "container";
    }
    return paragraph && this.beginTable(paragraph, rest.trimEnd()) ? "block" : "text";
  }

  /** @param {{block: Quote | Item, indent: number}} open whether the line is in it, whose marks are then behind */
  goesOn({ block, indent }) {
    if (block.type === "quote") {
      const before = this.indent();
      if (before >= 4 || this.rest()[0] !== ">") return false;
      this.skipMark(before);
      return true;
    }
    const before = this.indent();
    const blank = this.rest() === "";
    if (blank ? block.blocks.length === 0 : before < indent) return false;
    this.skip(Math.min(before, indent));
    return true;
  }

  /** @param {Extract<Growing, {kind: "code"}>} leaf whether the line belongs to it */
  addCode(leaf) {
    const indent = this.indent();
    const rest = this.rest();
    if (leaf.fence) {
      const closing = indent < 4 ? /^(`{3,}|~{3,})[ \t]*$/.exec(rest)?.[1] : undefined;
      if (closing?.startsWith(leaf.fence)) {
        this.close();
      } else {
        this.skip(Math.min(indent, leaf.indent));
        leaf.lines.push(this.remaining());
      }
      return true;
    }
    if (indent < 4 && rest !== "") return false;
    this.skip(Math.min(indent, 4));
    leaf.lines.push(this.remaining());
    return true;
  }

  /** @param {Extract<Growing, {kind: "paragraph"}>} paragraph its last line is the head @param {string} rest */
  beginTable(paragraph, rest) {
    if (!rest.includes("|") || !DELIMITERS.test(rest)) return false;
    const align = cells(rest).map((cell) => (cell[0] === ":" ? (cell.endsWith(":") ? "center" : "left") : cell.endsWith(":") ? "right" : ""));
    const head = paragraph.lines[paragraph.lines.length - 1];
    if (align.length > MOST_COLUMNS || cells(head).length !== align.length) return false;
    /** @type {Table} */
    const block = { type: "table", align, blocks: [] };
    paragraph.lines.pop();
    if (paragraph.lines.length === 0) {
      this.here().splice(-1, 1, block);
    } else {
      this.close();
      this.start = paragraph.at;
      this.add(block);
    }
    block.blocks.push(this.row(head, align, true));
    this.leaf = { kind: "table", block };
    return true;
  }

  /** @param {string} line @param {string[]} align @param {boolean} head @returns {Row} */
  row(line, align, head) {
    /** @type {Cell[]} */
    const blocks = cells(line).map((text, at) => ({ type: "cell", head, align: align[at] ?? "", text, open: false }));
    this.tip = blocks[blocks.length - 1] ?? null;
    return { type: "row", blocks };
  }

  /** @param {RegExpExecArray} found @param {number} indent before the mark @param {boolean} empty */
  addItem(found, indent, empty) {
    const ordered = found[2] !== undefined;
    const mark = found[1] ?? found[3];
    const width = indent + found[0].length;
    this.skip(width);
    const after = this.indent();
    const room = empty || after > 4 ? 1 : after;
    this.skip(Math.min(room, after));
    const before = this.here()[this.here().length - 1];
    /** @type {Item} */
    const block = { type: "item", done: null, blocks: [] };
    if (before?.type === "list" && before.ordered === ordered && before.mark === mark) {
      before.blocks.push(block);
    } else {
      this.add({ type: "list", ordered, start: ordered ? Number(found[2]) : 1, mark, blocks: [block] });
    }
    this.stack.push({ block, indent: width + room });
  }

  /** @param {string} text */
  addParagraph(text) {
    /** @type {Paragraph} */
    const block = { type: "paragraph", text: "", open: false };
    this.add(block);
    this.leaf = { kind: "paragraph", block, lines: [text], at: this.start };
    this.tip = block;
  }

  /** @param {Block} block */
  add(block) {
    if (this.stack.length === 0) {
      this.settled = this.blocks.length;
      this.from = this.start;
    }
    this.here().push(block);
  }

  /** The blocks of the innermost container. */
  here() {
    return this.stack[this.stack.length - 1]?.block.blocks ?? this.blocks;
  }

  /** @param {number} depth what is further in is closed */
  enter(depth) {
    this.close();
    this.stack.length = depth;
  }

  /** Closes the block that may go on. */
  close() {
    const leaf = this.leaf;
    this.leaf = null;
    if (leaf?.kind === "paragraph") {
      const text = leaf.lines.join("\n").trimEnd();
      const within = this.stack[this.stack.length - 1]?.block;
      const task = within?.type === "item" && within.blocks[0] === leaf.block ? TASK.exec(text) : null;
      if (within?.type === "item" && task) within.done = task[1] !== " ";
      leaf.block.text = task ? text.slice(task[0].length) : text;
    } else if (leaf?.kind === "code") {
      let end = leaf.lines.length;
      if (!leaf.fence) while (leaf.lines[end - 1].trim() === "") end--;
      leaf.block.text = leaf.lines.slice(0, end).join("\n");
    }
  }

  /** @param {boolean} streaming */
  finish(streaming) {
    const leaf = this.leaf;
    if (streaming && leaf?.kind === "paragraph" && leaf.lines[leaf.lines.length - 1][0] === "|") {
      leaf.lines.pop(); // perhaps a table's head
      if (leaf.lines.length === 0) this.here().pop();
    }
    this.close();
    if (streaming && this.tip) this.tip.open = true;
    return { blocks: this.blocks, settled: this.settled, from: this.from };
  }

  // ---- the line -----------------------------------------------------------------------------------------------

  /** Columns of blanks that come next. */
  indent() {
    let column = this.column + this.inTab;
    for (let at = this.at; ; at++) {
      if (this.line[at] === " ") column++;
      else if (this.line[at] === "\t") column += 4 - (column % 4);
      else return column - this.column;
    }
  }

  /** What comes after them. */
  rest() {
    let at = this.at;
    while (this.line[at] === " " || this.line[at] === "\t") at++;
    return this.line.slice(at);
  }

  /** What comes next, blanks included. */
  remaining() {
    return " ".repeat(this.inTab) + this.line.slice(this.at);
  }

  /** @param {number} columns */
  skip(columns) {
    for (let left = columns; left > 0; ) {
      if (this.inTab > 0) {
        const taken = Math.min(left, this.inTab);
        this.inTab -= taken;
        this.column += taken;
        left -= taken;
      } else if (this.line[this.at] === "\t") {
        this.inTab = 4 - (this.column % 4);
        this.at++;
      } else {
        this.at++;
        this.column++;
        left--;
      }
    }
  }

  /** The mark of a quote, and the blank after it. @param {number} indent before it */
  skipMark(indent) {
    this.skip(indent + 1);
    if (this.indent() > 0) this.skip(1);
  }
}

/** @param {string} source */
function headingText(source) {
  const text = source.trim();
  let end = text.length;
  while (text[end - 1] === "#") end--;
  return end === 0 || text[end - 1] === " " || text[end - 1] === "\t" ? text.slice(0, end).trimEnd() : text;
}

/** The cells of a row. @param {string} line */
function cells(line) {
  const found = [];
  const text = line.trim();
  let start = text[0] === "|" ? 1 : 0;
  for (let at = start; at < text.length && found.length < MOST_COLUMNS; at++) {
    if (text[at] !== "|" || text[at - 1] === "\\") continue;
    found.push(text.slice(start, at));
    start = at + 1;
  }
  if (start < text.length || found.length === 0) found.push(text.slice(start));
  return found.map((cell) => cell.trim().replaceAll("\\|", "|"));
}
