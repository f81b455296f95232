// What the person set, from one visit to the next and in all tabs. What is odd in it is left out, what is unknown kept.

/**
 * @typedef {import("./tree.js").Settings} Settings
 * @typedef {{settings: Settings, system: string}} Preset
 * @typedef {{settings: Settings, system: string, theme: string, presets: Record<string, Preset>}} Remembered
 *   system: what new conversations begin with
 * @typedef {{least: number, most: number, whole: boolean}} Range
 */

const KEY = "nanochat-settings"; // older pages kept temperature, top_k, max_tokens and theme under it, as this one does
export const LONGEST_NAME = 60; // characters of a preset's name
/** @type {Record<keyof Settings, Range>} as on the server */
export const RANGES = {
  temperature: { least: 0, most: 2, whole: false },
  top_k: { least: 0, most: 200, whole: true },
  top_p: { least: 0, most: 1, whole: false },
  max_tokens: { least: 1, most: 4096, whole: true },
  seed: { least: 0, most: Number.MAX_SAFE_INTEGER, whole: true },
};
const NAMES = /** @type {(keyof Settings)[]} */ (Object.keys(RANGES));
const THEMES = ["", "light", "dark"];

/**
 * @param {keyof Settings} name
 * @param {unknown} value
 * @returns {value is number}
 */
export function fits(name, value) {
  const { least, most, whole } = RANGES[name];
  return typeof value === "number" && value >= least && value <= most && (!whole || Number.isInteger(value));
}

/**
 * @param {unknown} value
 * @returns {Record<string, unknown>}
 */
function objectOf(value) {
  return typeof value === "object" && value !== null ? /** @type {Record<string, unknown>} */ (value) : {};
}

/**
 * @param {unknown} value
 * @returns {Settings}
 */
function settingsOf(value) {
  const given = objectOf(value);
  return Object.fromEntries(NAMES.filter((name) => fits(name, given[name])).map((name) => [name, given[name]]));
}

/** @param {unknown} value */
const textOf = (value) => (typeof value === "string" ? value : "");

function stored() {
  try {
    return objectOf(JSON.parse(localStorage.getItem(KEY) ?? "{}"));
  } catch {
    return {}; // no storage, or something else in it
  }
}

/**
 * @param {Record<string, unknown>} kept
 * @returns {Remembered}
 */
function read(kept) {
  const presets = Object.entries(objectOf(kept.presets)).map(([name, preset]) => {
    const { settings, system } = objectOf(preset);
    return [name, { settings: settingsOf(settings), system: textOf(system) }];
  });
  const theme = THEMES.includes(textOf(kept.theme)) ? textOf(kept.theme) : "";
  return { settings: settingsOf(kept), system: textOf(kept.system), theme, presets: Object.fromEntries(presets) };
}

/**
 * `onOther` is told what another tab set.
 * @param {(remembered: Remembered) => void} onOther
 */
export function createRemembered(onOther) {
  addEventListener("storage", ({ key }) => {
    if (key === KEY || key === null) onOther(read(stored()));
  });
  return {
    get: () => read(stored()),

    /**
     * Whether it is kept for the next visit.
     * @param {Partial<Remembered>} change
     */
    set({ settings, ...others }) {
      /** @type {Record<string, unknown>} */
      const kept = { ...stored(), ...others };
      if (settings) {
        for (const name of NAMES) delete kept[name];
        Object.assign(kept, settingsOf(settings));
      }
      try {
        localStorage.setItem(KEY, JSON.stringify(kept));
        return true;
      } catch {
        return false;
      }
    },
  };
}
