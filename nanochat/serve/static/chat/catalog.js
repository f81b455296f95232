// Which models there are, which of them answer, and what their cards say.

import { cardOf, modelsOf, nameOf } from "./checkpoints.js";
import { rememberChoice } from "./choice.js";
import { ownId } from "./state.js";

/**
 * @typedef {import("./state.js").State} State
 * @typedef {{get: () => State, set: (change: Partial<State>) => void}} Store
 */

/** @param {Store} store */
export function createCatalog(store) {
  /**
   * @param {string | null} chosen
   * @param {string | null} second
   */
  function set(chosen, second) {
    store.set({ chosen, second });
    rememberChoice({ chosen, second });
  }

  /** @param {string} id */
  const named = (id) => (id === ownId(store.get()) ? null : id); // the server's own, whichever that is next time

  return {
    /** Asks for the models. Where a chosen one is there no longer, the server's own takes its place. */
    async look() {
      try {
        const answer = await fetch("/page/models", { signal: AbortSignal.timeout(10_000) });
        if (!answer.ok) return;
        const told = await answer.json();
        const models = modelsOf(told?.models);
        store.set({ models, picker: told?.picker === true });
        const gone = (/** @type {string | null} */ id) => id !== null && !models.some((one) => one.id === id);
        const { chosen, second } = store.get();
        const lost = [chosen, second].filter(gone).map((id) => nameOf(id ?? ""));
        const own = ownId(store.get());
        const left = gone(chosen) ? null : chosen;
        const other = gone(second) || second === (left ?? own) ? null : second;
        if (left !== chosen || other !== second) set(left, other);
        if (lost.length > 0) {
          const is = lost.length > 1 ? "are" : "is";
          store.set({ notice: `${lost.join(" and ")} ${is} not to be had here any more. ${nameOf(left ?? own)} answers now.` });
        }
      } catch {
        // the server went; it is asked again when it is back
      }
    },

    /**
     * This model answers from now on. If it is the one beside, the two change places.
     * @param {string} id
     */
    choose(id) {
      const { chosen, second } = store.get();
      set(named(id), second === id ? (chosen ?? ownId(store.get())) : second);
    },

    /**
     * Another model answers beside the chosen one; null: none any more.
     * @param {string | null} id
     */
    compare(id) {
      set(store.get().chosen, id);
    },

    /**
     * Asks for the cards of models.
     * @param {string[]} ids
     */
    async readCards(ids) {
      for (const id of ids) {
        const read = await readCard(id);
        const { cards } = store.get();
        if (read.card || !cards[id]?.card) store.set({ cards: { ...cards, [id]: read } }); // else what was known stays
      }
    },
  };
}

/**
 * @param {string} id
 * @returns {Promise<{card: import("./card.js").Card | undefined, problem: string}>}
 */
async function readCard(id) {
  try {
    const answer = await fetch(`/page/card?model=${encodeURIComponent(id)}`);
    const told = await answer.json();
    if (answer.ok) return { card: cardOf(told, id), problem: "" };
    return { card: undefined, problem: typeof told?.detail === "string" ? told.detail : `The server answered ${answer.status}.` };
  } catch {
    return { card: undefined, problem: "The card could not be read: the server cannot be reached." };
  }
}
