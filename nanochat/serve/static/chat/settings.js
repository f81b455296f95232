// The settings: how answers are drawn, the system prompt, colours, and what of that was given a name.

import { button, element } from "./dom.js";
import { createPresets } from "./presets.js";
import { RANGES, fits } from "./remembered.js";

/**
 * @typedef {import("./tree.js").Settings} Settings
 * @typedef {import("./remembered.js").Preset} Preset
 * @typedef {{
 *   settings: Settings, defaults: Settings, system: string | null, systemForNew: string, theme: string,
 *   presets: Record<string, Preset>
 * }} Shown system: of the conversation that is shown, null where there can be none; systemForNew: what new ones begin with
 * @typedef {keyof Settings} Name
 * @typedef {{name: Name, label: string, hint: string, slider: boolean, step: number}} Field
 */

/** @type {Field[]} */
const FIELDS = [
  { name: "temperature", label: "Temperature", slider: true, step: 0.05, hint: "0 always takes the likeliest token; higher is more varied." },
  { name: "top_k", label: "Top k", slider: true, step: 1, hint: "Draws from this many of the likeliest tokens; 0 means all." },
  { name: "top_p", label: "Top p", slider: true, step: 0.01, hint: "Draws from the likeliest tokens that make up this share; 1 means all." },
  { name: "max_tokens", label: "Longest answer, in tokens", slider: false, step: 1, hint: "" },
  { name: "seed", label: "Seed", slider: false, step: 1, hint: "The same question with the same seed gets the same answer. Empty: another one each time." },
];
/** @type {Settings} what a server means that says nothing */
const UNSAID = { top_p: 1 };

/**
 * @param {HTMLDialogElement} dialog
 * @param {HTMLElement} opener
 * @param {{
 *   change: (settings: Settings) => void, system: (text: string) => void, systemForNew: (text: string) => void,
 *   theme: (name: string) => void, savePreset: (name: string, preset: Preset) => boolean,
 *   deletePreset: (name: string) => void, choosePreset: (preset: Preset) => void
 * }} actions
 */
export function createSettings(dialog, opener, actions) {
  /** @type {Settings} */
  let settings = {};
  /** @type {Settings} */
  let defaults = {};
  let system = "";

  /**
   * @param {Name} name
   * @param {number | undefined} value
   */
  function set(name, value) {
    const { [name]: _, ...others } = settings;
    settings = value === undefined ? others : { ...others, [name]: value };
    actions.change(settings);
  }

  const rows = FIELDS.map((field) => createRow(field, (value) => set(field.name, value)));

  const systemLabel = element("label", "", "System prompt of this conversation");
  const prompt = element("textarea");
  prompt.id = "system";
  prompt.rows = 3;
  prompt.placeholder = "What the model is told before the first message";
  systemLabel.htmlFor = prompt.id;
  prompt.addEventListener("input", () => {
    system = prompt.value;
    actions.system(system);
  });
  const forNew = button("Also for new conversations", () => actions.systemForNew(prompt.value));
  const forNewHint = element("p", "hint");
  const systemPart = element("div", "system");
  systemPart.append(systemLabel, prompt, forNew, forNewHint);

  const themeLabel = element("label", "", "Colours");
  const theme = element("select");
  theme.id = "theme";
  themeLabel.htmlFor = theme.id;
  for (const [value, text] of [["", "As the system"], ["light", "Light"], ["dark", "Dark"]]) theme.append(new Option(text, value));
  theme.addEventListener("change", () => actions.theme(theme.value));

  const presets = createPresets({
    now: () => ({ settings, system }),
    save: actions.savePreset,
    remove: actions.deletePreset,
    choose: actions.choosePreset,
  });

  const title = element("h2", "", "Settings");
  title.id = "settings-title";
  title.tabIndex = -1;
  const end = element("div", "row");
  const done = button("Done", () => dialog.close());
  done.className = "primary";
  end.append(button("Back to defaults", () => actions.change({})), done);
  dialog.replaceChildren(title, presets.element, ...rows.map((row) => row.element), systemPart, themeLabel, theme, end);
  opener.addEventListener("click", () => {
    render();
    dialog.showModal();
    title.focus(); // not the first field, over which a phone would put its keyboard
  });

  /** @type {Shown | null} */
  let data = null;

  function render() {
    if (!data) return;
    settings = data.settings;
    defaults = { ...UNSAID, ...data.defaults };
    system = data.system ?? "";
    for (const row of rows) row.show(settings, defaults);
    systemPart.hidden = data.system === null;
    if (prompt.value !== system) prompt.value = system;
    forNew.disabled = system === data.systemForNew;
    const other = data.systemForNew ? "New conversations begin with another one." : "New conversations begin with none.";
    forNewHint.textContent = forNew.disabled ? "New conversations begin with the same." : other;
    theme.value = data.theme;
    presets.show(data.presets);
  }

  return {
    /** @param {Shown} now */
    show(now) {
      data = now;
      if (dialog.open) render(); // while answers grow, it is not
    },
  };
}

/**
 * One setting: its value, and whether it is the default.
 * @param {Field} field
 * @param {(value: number | undefined) => void} set undefined: the default
 */
function createRow({ name, label, hint, slider, step }, set) {
  const { least, most } = RANGES[name];
  const row = element("div", "setting");
  const words = element("label", "", `${label} `);
  const input = element("input");
  input.id = `setting-${name}`;
  words.htmlFor = input.id;
  input.type = slider ? "range" : "number";
  [input.min, input.max, input.step] = [least, most, step].map(String);
  const shown = element("output");
  shown.htmlFor.add(input.id);
  if (slider) words.append(shown);
  const back = button("", () => set(undefined));
  back.className = "back";
  const help = element("p", "hint", hint);
  help.id = `${input.id}-hint`;
  const wrong = element("p", "note bad", name === "seed" ? "A whole number from 0." : `A whole number from ${least} to ${most}.`);
  wrong.id = `${input.id}-wrong`;
  input.setAttribute("aria-describedby", `${help.id} ${wrong.id}`);
  wrong.hidden = true;
  input.addEventListener("input", () => {
    const empty = input.value === "" && !input.validity.badInput;
    const value = Number(input.value);
    wrong.hidden = empty || fits(name, value);
    input.setAttribute("aria-invalid", String(!wrong.hidden));
    if (wrong.hidden) set(empty ? undefined : value);
  });
  row.append(words, input, back, help, wrong);

  return {
    element: row,
    /**
     * @param {Settings} settings
     * @param {Settings} defaults
     */
    show(settings, defaults) {
      const own = defaults[name];
      const value = settings[name] ?? own;
      const isOther = settings[name] !== undefined && settings[name] !== own;
      row.classList.toggle("other", isOther);
      back.hidden = !isOther;
      back.textContent = own === undefined ? "Back to random" : `Back to ${own}`;
      back.title = own === undefined ? "Another one each time" : "The default";
      shown.textContent = value === undefined ? "" : String(value);
      if (input === document.activeElement) return; // it is being written
      input.value = value === undefined ? "" : String(value);
      if (name === "seed") input.placeholder = "random";
      wrong.hidden = true;
      input.setAttribute("aria-invalid", "false");
    },
  };
}
