// Markdown on the page. While a text grows, only what changes is made anew: what is above stays, selections included.

import { copy } from "./copying.js";
import { button, element } from "./dom.js";
import { parseInline } from "./markdown_inline.js";
import { parseBlocks } from "./markdown_parse.js";

/**
 * @typedef {import("./markdown_parse.js").Block} Block
 * @typedef {import("./markdown_parse.js").Inline} Inline
 * @typedef {{block: Block, node: HTMLElement, inner: HTMLElement, views: View[], inline: Inline[]}} View
 *   a block as it is shown: what stands in it is inside `inner`
 */

/** @returns {{element: HTMLElement, show: (text: string, streaming?: boolean) => void}} */
export function createMarkdown() {
  const root = element("div", "markdown");
  /** @type {View[]} */
  const views = [];
  let shown = "";
  let settled = 0; // so many views stay while the text only grows,
  let from = 0; // and the others are those of the text from here on
  /** @type {HTMLElement | null} */
  let end = null; // where the text is being written

  return {
    element: root,
    show(text, streaming = false) {
      if (!text.startsWith(shown)) settled = from = 0;
      shown = text;
      const found = parseBlocks(text.slice(from), streaming);
      showBlocks(root, views, found.blocks, settled);
      settled += found.settled;
      from += found.from;
      const last = streaming ? innermost(views, root) : null;
      if (last === end) return;
      end?.classList.remove("end");
      last?.classList.add("end");
      end = last;
    },
  };
}

/**
 * @param {HTMLElement} parent
 * @param {View[]} views what is shown in it
 * @param {Block[]} blocks what is to be shown
 * @param {number} [kept] so many views stay as they are; blocks has only those after them
 */
function showBlocks(parent, views, blocks, kept = 0) {
  blocks.forEach((block, index) => {
    const at = kept + index;
    const view = views[at];
    if (view && update(view, block)) return;
    const made = build(block);
    if (view) view.node.replaceWith(made.node);
    else parent.append(made.node);
    views[at] = made;
  });
  for (const view of views.splice(kept + blocks.length)) view.node.remove();
}

/**
 * Shows the block in the view of another one, where that is of the same kind.
 * @param {View} view
 * @param {Block} block
 */
function update(view, block) {
  const before = view.block;
  if (block.type === "code" && before.type === "code" && block.label === before.label) {
    grow(view.inner, before.text, block.text);
  } else if ("blocks" in block && "blocks" in before && frame(block) === frame(before)) {
    showBlocks(view.inner, view.views, block.blocks);
  } else if ("open" in block && "open" in before && frame(block) === frame(before)) {
    if (block.text !== before.text || block.open !== before.open) {
      const inline = parseInline(block.text, block.open);
      showInline(view.inner, view.inline, inline);
      view.inline = inline;
    }
  } else if (block.type !== "rule" || before.type !== "rule") {
    return false;
  }
  view.block = block;
  return true;
}

/** What the element of a block depends on. @param {Block} block */
function frame(block) {
  const { type } = block;
  if (type === "heading") return `${type} ${block.level}`;
  if (type === "cell") return `${type} ${block.head} ${block.align}`;
  if (type === "list") return `${type} ${block.ordered} ${block.start}`;
  return type === "item" ? `${type} ${block.done}` : type;
}

/** @param {Block} block @returns {View} */
function build(block) {
  const [node, inner] = elements(block);
  /** @type {View} */
  const view = { block, node, inner, views: [], inline: [] };
  if ("blocks" in block) showBlocks(inner, view.views, block.blocks);
  if ("open" in block) {
    view.inline = parseInline(block.text, block.open);
    inner.append(...view.inline.map((piece) => inlineNode(piece)));
  }
  return view;
}

/**
 * @param {Block} block
 * @returns {[HTMLElement, HTMLElement]} its element, and the one for what stands in it
 */
function elements(block) {
  /** @type {HTMLElement} */
  let node;
  switch (block.type) {
    case "code":
      return code(block);
    case "table": {
      const body = element("tbody");
      const table = element("table");
      table.append(body);
      return [scrolling(element("div", "table"), "Table", table), body];
    }
    case "item": {
      const item = element("li", block.done === null ? "" : "task");
      if (block.done === null) return [item, item];
      const box = element("span", "box", block.done ? "☑" : "☐");
      box.setAttribute("role", "img");
      box.setAttribute("aria-label", block.done ? "done" : "to do");
      const inner = element("div");
      item.append(box, inner);
      return [item, inner];
    }
    case "list":
      if (block.ordered) {
        const list = element("ol");
        if (block.start !== 1) list.start = block.start;
        return [list, list];
      }
      node = element("ul");
      break;
    case "heading": // below those of the page
      node = element(/** @type {const} */ (["h3", "h4", "h5", "h6", "h6", "h6"])[block.level - 1]);
      break;
    case "cell":
      node = element(block.head ? "th" : "td", block.align);
      if (block.head) node.setAttribute("scope", "col");
      break;
    default:
      node = element(/** @type {const} */ ({ paragraph: "p", rule: "hr", quote: "blockquote", row: "tr" })[block.type]);
  }
  return [node, node];
}

/**
 * @param {Extract<Block, {type: "code"}>} block
 * @returns {[HTMLElement, HTMLElement]}
 */
function code({ label, text }) {
  const node = element("div", "code");
  const head = element("div", "head");
  const inner = element("code", "", text);
  const copied = button("Copy", () => copy(inner.textContent ?? "", copied), "Copy the code");
  head.append(element("span", "label", label || "code"), copied);
  node.append(head, scrolling(element("pre"), label ? `Code, ${label}` : "Code", inner));
  return [node, inner];
}

/**
 * A box that may be wider than the page: the keyboard scrolls it, too.
 * @param {HTMLElement} box
 * @param {string} label
 * @param {HTMLElement} inner
 */
function scrolling(box, label, inner) {
  box.tabIndex = 0;
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", label);
  box.append(inner);
  return box;
}

/**
 * Writes on in the last text of an element, so that what is there stays, and stays selected.
 * @param {Node} parent
 * @param {string} before
 * @param {string} text
 */
function grow(parent, before, text) {
  if (text === before) return;
  const last = parent.lastChild;
  if (last instanceof Text && text.startsWith(before)) last.appendData(text.slice(before.length));
  else parent.textContent = text;
}

/**
 * @param {Node} parent
 * @param {Inline[]} before
 * @param {Inline[]} after
 */
function showInline(parent, before, after) {
  let same = 0;
  while (same < before.length && same < after.length && sameInline(before[same], after[same])) same++;
  const [old, now] = [before[same], after[same]];
  const node = parent.childNodes[same];
  if (old && now && old.type === now.type && node) {
    if (old.type === "text" && now.type === "text" && node instanceof Text && now.text.startsWith(old.text)) {
      node.appendData(now.text.slice(old.text.length));
      same++;
    } else if (old.type === "code" && now.type === "code") {
      grow(node, old.text, now.text);
      same++;
    } else if ("children" in old && "children" in now && old.type !== "link") {
      showInline(node, old.children, now.children);
      same++;
    }
  }
  while (parent.childNodes.length > same) parent.lastChild?.remove();
  for (const piece of after.slice(same)) parent.appendChild(inlineNode(piece));
}

/** @param {Inline} a @param {Inline} b @returns {boolean} */
function sameInline(a, b) {
  if (a.type !== b.type) return false;
  if ("text" in a && "text" in b && a.text !== b.text) return false;
  if ("href" in a && "href" in b && a.href !== b.href) return false;
  if (!("children" in a) || !("children" in b)) return true;
  const others = b.children;
  return a.children.length === others.length && a.children.every((child, at) => sameInline(child, others[at]));
}

/** @param {Inline} piece @returns {Node} one for each piece */
function inlineNode(piece) {
  switch (piece.type) {
    case "text":
      return document.createTextNode(piece.text);
    case "code":
      return element("code", "", piece.text);
    case "break":
      return element("br");
    case "link":
      return link(piece.href, piece.children);
    case "image":
      return link(piece.href, [{ type: "text", text: piece.text || piece.href }], "image");
    default: {
      const node = element(/** @type {const} */ ({ em: "em", strong: "strong", strike: "s" })[piece.type]);
      node.append(...piece.children.map(inlineNode));
      return node;
    }
  }
}

/**
 * @param {string} href a safe one: see safeAddress
 * @param {Inline[]} children
 * @param {string} [className]
 */
function link(href, children, className = "") {
  const node = element("a", className);
  node.href = href;
  node.target = "_blank";
  node.rel = "noopener noreferrer";
  node.title = href; // where it leads, whatever it is called
  node.append(...children.map(inlineNode));
  const truth = elsewhere(node.textContent ?? "", href);
  if (truth) node.append(element("small", "", ` (${truth})`));
  return node;
}

/**
 * Where a link really leads, if its text is an address of another place.
 * @param {string} text
 * @param {string} href
 */
function elsewhere(text, href) {
  const named = /^\s*(?:(?:https?:)?\/\/)?((?:[\p{L}\p{N}_-]+\.)+\p{L}[\p{L}\p{N}-]*)(?=[:/?#\s]|$)/iu.exec(text.slice(0, 300));
  if (!named) return "";
  const { hostname, protocol, pathname } = new URL(href);
  const real = protocol === "mailto:" ? pathname : hostname;
  try {
    return new URL(`http://${named[1]}`).hostname.replace(/^www\./, "") === real.replace(/^www\./, "") ? "" : real;
  } catch {
    return real;
  }
}

/**
 * The element in which the text ends.
 * @param {View[]} views
 * @param {HTMLElement} root
 */
function innermost(views, root) {
  let found = root;
  for (let view = views[views.length - 1]; view; view = view.views[view.views.length - 1]) found = view.inner;
  return found;
}
