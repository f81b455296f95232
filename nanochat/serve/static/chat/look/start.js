// Looking inside the server's answers: this module and what it needs is loaded when somebody does that for the first time.

import { askLook } from "./data.js";
import { createLayers } from "./layers.js";
import { wireLooking } from "./wiring.js";

/**
 * @param {HTMLDialogElement} dialog
 * @param {ReturnType<typeof import("../../store.js").createStore<import("../state.js").State>>} store
 * @param {(node: string, tokens: import("../tree.js").Token[]) => void} goOnFrom
 */
export const startLooking = (dialog, store, goOnFrom) => wireLooking(dialog, store, goOnFrom, askLook, createLayers);
