// What a person does in the settings.

import { createRemembered } from "./remembered.js";
import { withSystem } from "./tree.js";

/**
 * @typedef {import("./state.js").State} State
 * @typedef {import("./tree.js").Settings} Settings
 * @typedef {import("./remembered.js").Preset} Preset
 * @typedef {{get: () => State, set: (change: Partial<State>) => void}} Store
 */

/**
 * @param {Store} store
 * @param {(c: import("./tree.js").Conversation) => void} keep
 */
export function createPreferences(store, keep) {
  const remembered = createRemembered(take);

  /** @param {Partial<import("./remembered.js").Remembered>} change */
  function take(change) {
    store.set(change);
    if (change.theme !== undefined) document.documentElement.dataset.theme = change.theme;
  }

  /** @param {Partial<import("./remembered.js").Remembered>} change */
  function set(change) {
    take(change);
    return remembered.set(change);
  }

  /** @param {string} text for the conversation that is shown */
  function system(text) {
    const { open, current } = store.get();
    const c = withSystem(open[current], text);
    store.set({ open: { ...open, [c.id]: c } });
    if (c.leaf !== null) keep(c); // an empty one is not worth keeping
  }

  take(remembered.get());
  return {
    /** @param {Settings} settings */
    change: (settings) => set({ settings }),
    system,

    /** @param {string} system */
    systemForNew: (system) => set({ system }),

    /** @param {string} theme */
    theme: (theme) => set({ theme }),

    /**
     * @param {string} name
     * @param {Preset} preset
     */
    savePreset: (name, preset) => set({ presets: { ...store.get().presets, [name]: preset } }),

    /** @param {string} name */
    deletePreset(name) {
      const { [name]: _, ...presets } = store.get().presets;
      set({ presets });
    },

    /** @param {Preset} preset */
    choosePreset(preset) {
      set({ settings: preset.settings });
      system(preset.system);
    },
  };
}
