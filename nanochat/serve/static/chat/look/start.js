// Looking inside answers, wired: this module and what it needs is loaded when somebody does that for the first time.

import { createLookDialog } from "./dialog.js";
import { createLooking } from "./looking.js";

/** @typedef {import("../state.js").State} State */

/**
 * @param {HTMLDialogElement} dialog
 * @param {ReturnType<typeof import("../../store.js").createStore<State>>} store
 * @param {(node: string, tokens: import("../tree.js").Token[]) => void} goOnFrom
 */
export function startLooking(dialog, store, goOnFrom) {
  const actions = createLooking(store, goOnFrom);
  const show = createLookDialog(dialog, actions);
  store.subscribe(({ looking, open }, before) => {
    if (looking === before.looking && open === before.open) return;
    const tokens = looking ? open[looking.conversation]?.nodes[looking.node]?.tokens : undefined;
    show(tokens ? looking : null, tokens ?? []);
  });
  return actions;
}
