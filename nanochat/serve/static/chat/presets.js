// Settings that were given a name.

import { button, element } from "./dom.js";
import { LONGEST_NAME } from "./remembered.js";

/** @typedef {import("./remembered.js").Preset} Preset */

/**
 * @param {{
 *   now: () => Preset, save: (name: string, preset: Preset) => boolean, remove: (name: string) => void,
 *   choose: (preset: Preset) => void
 * }} actions now: what is set. save: whether it is kept for the next visit.
 */
export function createPresets(actions) {
  /** @type {Map<string, Preset>} */
  let presets = new Map();

  const label = element("label", "", "Preset");
  const select = element("select");
  select.id = "preset";
  label.htmlFor = select.id;
  select.addEventListener("change", () => {
    const preset = presets.get(select.value);
    if (preset) actions.choose(preset);
  });
  const name = element("input");
  name.placeholder = "Name of what is set now";
  name.maxLength = LONGEST_NAME;
  name.setAttribute("aria-label", "Name of a new preset");
  const save = button("Save", () => keep(name.value.trim()));
  const remove = button("Delete", () => {
    const [gone, preset] = [select.value, presets.get(select.value)];
    if (!preset) return;
    actions.remove(gone);
    say(`Deleted “${gone}”.`, () => actions.save(gone, preset));
  });
  const told = element("p", "hint told");
  told.setAttribute("role", "status");
  name.addEventListener("input", named);
  name.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.isComposing) return;
    event.preventDefault();
    keep(name.value.trim());
  });

  /** @param {string} wanted */
  function keep(wanted) {
    if (!wanted) return;
    const before = presets.get(wanted);
    const kept = actions.save(wanted, actions.now());
    name.value = "";
    named();
    const done = before ? `“${wanted}” is replaced` : `Saved as “${wanted}”`;
    const until = kept ? "" : ", until the page is closed: this browser keeps nothing for it";
    say(`${done}${until}.`, before && (() => actions.save(wanted, before)));
  }

  function named() {
    save.textContent = presets.has(name.value.trim()) ? "Replace" : "Save";
    save.disabled = !name.value.trim();
  }

  /**
   * @param {string} text
   * @param {() => void} [undo]
   */
  function say(text, undo) {
    told.replaceChildren(text);
    if (!undo) return;
    told.append(" ", button("Undo", () => {
      told.replaceChildren();
      select.focus();
      undo();
    }));
  }

  const choosing = element("div", "pair");
  choosing.append(select, remove);
  const naming = element("div", "pair");
  naming.append(name, save);
  const all = element("div", "presets");
  all.append(label, choosing, naming, told);

  return {
    element: all,
    /** @param {Record<string, Preset>} given */
    show(given) {
      presets = new Map(Object.entries(given).sort(([a], [b]) => a.localeCompare(b)));
      const names = [...presets.keys()];
      const listed = [...select.options].map((option) => option.value);
      if (["", ...names].join("\0") !== listed.join("\0") || listed.length === 0) {
        select.replaceChildren(new Option(names.length > 0 ? "None of these" : "None yet", ""), ...names.map((one) => new Option(one, one)));
      }
      const now = actions.now();
      select.value = names.find((one) => isSame(/** @type {Preset} */ (presets.get(one)), now)) ?? "";
      select.disabled = names.length === 0;
      remove.disabled = select.value === "";
      named();
    },
  };
}

/**
 * @param {Preset} a
 * @param {Preset} b
 */
function isSame(a, b) {
  const sorted = (/** @type {Preset} */ preset) => JSON.stringify([preset.system, Object.entries(preset.settings).sort()]);
  return sorted(a) === sorted(b);
}
