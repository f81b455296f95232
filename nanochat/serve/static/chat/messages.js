// The messages of the conversation that is shown, of which only what changed is rebuilt.

import { createFlow } from "./flow.js";
import { createMessage } from "./message.js";
import { path, siblings } from "./tree.js";

/**
 * @typedef {import("./tree.js").Conversation} Conversation
 * @typedef {import("./state.js").Running} Running
 * @typedef {{
 *   conversation: Conversation, running: Record<string, Running>, editing: string | null, longest: number | undefined
 * }} Shown
 *   longest: tokens of an answer where nothing is set
 */

/**
 * @param {HTMLElement} root
 * @param {import("./message.js").Actions} actions
 */
export function createMessages(root, actions) {
  /** @type {Map<string, ReturnType<typeof createMessage>>} */
  let views = new Map();
  const flow = createFlow(actions);

  /** @param {Shown} shown */
  return ({ conversation, running, editing, longest }) => {
    const nodes = path(conversation);
    const idle = !Object.values(running).some((one) => one.conversation === conversation.id);
    const all = nodes.map((node) => ({
      node, beside: siblings(conversation, node), running: running[node.id], editing: editing === node.id, idle, longest,
    }));
    root.setAttribute("aria-busy", String(!idle));
    if (conversation.mode === "text") {
      views = new Map();
      flow.show(all);
      root.replaceChildren(...(nodes.length > 0 ? [flow.element] : []));
      return;
    }
    const before = views;
    views = new Map(all.map((one) => [one.node.id, before.get(one.node.id) ?? createMessage(one, actions)]));
    for (const one of all) views.get(one.node.id)?.show(one);
    const elements = [...views.values()].map((view) => view.element);
    for (const old of [...root.children]) if (!elements.includes(/** @type {HTMLElement} */ (old))) old.remove();
    elements.forEach((element, index) => {
      if (root.children[index] !== element) root.insertBefore(element, root.children[index] ?? null);
    });
  };
}
