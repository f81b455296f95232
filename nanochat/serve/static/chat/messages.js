// The messages of the conversation that is shown, of which only what changed is rebuilt.

import { nameOf } from "./checkpoints.js";
import { createCompare } from "./compare.js";
import { button } from "./dom.js";
import { createFlow } from "./flow.js";
import { createMessage } from "./message.js";
import { besidePair, pairOf, sidesOf } from "./pair.js";
import { path, siblings } from "./tree.js";

/**
 * @typedef {import("./tree.js").Conversation} Conversation
 * @typedef {import("./tree.js").Node} Node
 * @typedef {import("./state.js").Running} Running
 * @typedef {{
 *   conversation: Conversation, running: Record<string, Running>, editing: string | null, longest: number | undefined,
 *   answers: string, pairs: boolean, marks: boolean, marked: import("./marking.js").Marked | null
 * }} Shown
 *   longest: tokens of an answer where nothing is set; answers: the model that answers now;
 *   pairs: two answers to one question stand side by side; marks, marked: see message.js
 */

const AT_ONCE = 200; // messages of a chat; earlier ones on a click

/**
 * Whether a model that was not trained to chat got the question as a text.
 * @param {Conversation} conversation
 * @param {Node} node
 */
const isContinued = ({ mode }, { start }) => mode === "chat" && start?.chat === false;

/**
 * Whose answer it is, where that is another model than the one that answers now, or one that does not answer.
 * @param {Conversation} conversation
 * @param {Node} node
 * @param {string} answers
 */
function byOf(conversation, node, answers) {
  if (node.role === "user" || !node.model) return "";
  const name = nameOf(node.model);
  if (isContinued(conversation, node)) return `${name} continues text: it got your question as a text to go on with.`;
  if (node.model === answers) return "";
  return conversation.mode === "text" ? `Continued by ${name}` : `Answered by ${name}`;
}

/**
 * @param {HTMLElement} root
 * @param {import("./message.js").Actions} actions
 */
export function createMessages(root, actions) {
  /** @type {Map<string, ReturnType<typeof createMessage>>} */
  let views = new Map();
  /** @type {Map<string, ReturnType<typeof createCompare>>} */
  let compares = new Map();
  const flow = createFlow(actions);
  const earlier = button("", () => more());
  earlier.className = "earlier";
  let most = AT_ONCE;
  /** @type {Shown | null} */
  let now = null;

  /** What is being read stays where it is. */
  function more() {
    const first = earlier.nextElementSibling;
    const before = first?.getBoundingClientRect().top ?? 0;
    most += AT_ONCE;
    if (now) show(now);
    const scroller = root.closest("main");
    if (first && scroller) scroller.scrollTop += first.getBoundingClientRect().top - before;
    if (!earlier.isConnected) scroller?.focus({ preventScroll: true });
  }

  /** @param {Shown} shown */
  function show(shown) {
    const { conversation, running, editing, longest, answers, pairs, marks, marked } = shown;
    if (now?.conversation.id !== conversation.id) most = AT_ONCE;
    now = shown;
    const all = path(conversation);
    const nodes = conversation.mode === "text" ? all : all.slice(-most);
    const hidden = all.length - nodes.length;
    const families = Map.groupBy(Object.values(conversation.nodes), (node) => node.parent);
    const besideOf = (/** @type {Node} */ node) => (families.get(node.parent)?.length === 1 ? [node] : siblings(conversation, node));
    const idle = !Object.values(running).some((one) => one.conversation === conversation.id);
    /**
     * @param {Node} node
     * @param {Node[]} beside
     */
    const shownOf = (node, beside) => ({
      node, beside, running: running[node.id], editing: editing === node.id, idle, longest, marks, marked,
      by: byOf(conversation, node, answers),
    });
    const [oldViews, oldCompares] = [views, compares];
    views = new Map();
    compares = new Map();

    /** @param {Node} node */
    function pairElement(node) {
      const id = pairOf(node)?.id;
      const sides = pairs && id !== undefined ? sidesOf(conversation, node) : null;
      if (!sides || id === undefined) return null;
      const columns = sides.map((side) => {
        const one = side.find((each) => each.id === node.id) ?? side[side.length - 1];
        return { message: { ...shownOf(one, side), by: "" }, continues: isContinued(conversation, one) };
      });
      const view = oldCompares.get(id) ?? createCompare(actions);
      compares.set(id, view);
      view.show({ columns, followed: node.id, beside: besidePair(conversation, node) });
      return view.element;
    }

    /** @param {Node} node */
    function messageElement(node) {
      const shown = shownOf(node, besideOf(node));
      const view = oldViews.get(node.id) ?? createMessage(shown, actions);
      views.set(node.id, view);
      view.show(shown);
      return view.element;
    }

    /** One text; where it goes on in two ways, these stand below it. */
    function flowElements() {
      const end = nodes.at(-1);
      const pair = end && pairElement(end);
      const all = (pair ? nodes.slice(0, -1) : nodes).map((node) => shownOf(node, besideOf(node)));
      flow.show(all);
      return [...(all.length > 0 ? [flow.element] : []), ...(pair ? [pair] : [])];
    }

    root.setAttribute("aria-busy", String(!idle));
    const said = conversation.mode === "text" ? flowElements() : nodes.map((node) => pairElement(node) ?? messageElement(node));
    earlier.textContent = `Show earlier messages (${hidden.toLocaleString("en")})`;
    const elements = hidden > 0 ? [earlier, ...said] : said;
    const kept = new Set(/** @type {Element[]} */ (elements));
    for (const old of [...root.children]) if (!kept.has(old)) old.remove();
    elements.forEach((element, index) => {
      if (root.children[index] !== element) root.insertBefore(element, root.children[index] ?? null);
    });
  }
  return show;
}
