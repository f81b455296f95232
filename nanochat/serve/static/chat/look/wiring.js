// Looking inside answers, wired to the store.

import { createLookDialog } from "./dialog.js";
import { createLooking } from "./looking.js";

/** @typedef {import("../state.js").State} State */

/**
 * @param {HTMLDialogElement} dialog
 * @param {ReturnType<typeof import("../../store.js").createStore<State>>} store
 * @param {(node: string, tokens: import("../tree.js").Token[]) => void} goOnFrom
 * @param {import("./looking.js").AskLook} askLook
 * @param {typeof import("./layers.js").createLayers | null} createLayers null where nobody tells of the layers
 */
export function wireLooking(dialog, store, goOnFrom, askLook, createLayers) {
  const actions = createLooking(store, goOnFrom, askLook);
  const show = createLookDialog(dialog, actions, createLayers);
  store.subscribe(({ looking, open }, before) => {
    if (looking === before.looking && open === before.open) return;
    const tokens = looking ? open[looking.conversation]?.nodes[looking.node]?.tokens : undefined;
    show(tokens ? looking : null, tokens ?? []);
  });
  return actions;
}
