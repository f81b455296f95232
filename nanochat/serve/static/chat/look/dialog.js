// The dialog in which one looks inside an answer: its tokens, or the layers at one of them.

import { button, element } from "../dom.js";
import { createTokens } from "./tokens.js";

/**
 * @param {HTMLDialogElement} dialog
 * @param {ReturnType<typeof import("./looking.js").createLooking>} actions
 * @param {typeof import("./layers.js").createLayers | null} createLayers null where nobody tells of the layers
 */
export function createLookDialog(dialog, actions, createLayers) {
  const title = element("div", "title");
  const problem = element("p", "note bad");
  problem.setAttribute("role", "alert");
  const tokens = element("div");
  const layers = element("div", "layers");
  title.append(element("h2", "", "Look inside"), button("Close", () => dialog.close()));
  dialog.append(title, problem, tokens, layers);
  dialog.addEventListener("close", actions.close);
  const showTokens = createTokens(tokens, {
    open: actions.open,
    choose: (index, alternative) => void actions.choose(index, alternative),
    inspect: createLayers && ((index) => void actions.inspect(index)),
  });
  const showLayers = createLayers?.(layers, { checkpoint: actions.checkpoint, head: actions.head, close: actions.back });
  /** @type {number | null} */
  let why = null;

  /**
   * @param {import("./looking.js").Looking | null} looking
   * @param {import("../tree.js").Token[]} all of the answer
   */
  return (looking, all) => {
    if (!looking) {
      why = null;
      if (dialog.open) dialog.close();
      return;
    }
    if (!dialog.open) dialog.showModal();
    tokens.hidden = looking.why !== null;
    layers.hidden = looking.why === null;
    problem.textContent = layers.hidden ? looking.problem : "";
    problem.hidden = !problem.textContent;
    const before = why;
    why = looking.why;
    if (looking.why === null) {
      showTokens(all, looking.opened, looking.own);
    } else {
      showLayers?.({ ...looking, index: looking.why });
      if (before === null) layers.querySelector("button")?.focus();
    }
  };
}
