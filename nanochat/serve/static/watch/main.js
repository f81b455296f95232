// The page on which a training is watched: asks for what is new, and shows it.

import { showAnswers } from "./answers.js";
import { createCurves } from "./curves.js";
import { askAnswers, askRun, askRuns } from "./data.js";
import { showFigures } from "./figures.js";
import { createStore } from "../store.js";

/**
 * @typedef {import("./data.js").Run} Run
 * @typedef {import("./data.js").Answers} Answers
 * @typedef {{
 *   every: number, names: string[], run: string, follow: boolean, compare: string, runs: Run[], answers: Answers | null,
 *   at: number | null, over: string, log: boolean, smoothing: number, away: string
 * }} State
 */

const LOOK = "nanochat.watch"; // how the curves were shown last

const asked = new URLSearchParams(location.search);
const store = createStore(
  /** @type {State} */ ({
    every: 2, names: [], run: asked.get("run") ?? "", follow: !asked.get("run"), compare: asked.get("compare") ?? "",
    runs: [], answers: null, at: null, over: "step", log: false, smoothing: 0.6, away: "", ...remembered(),
  }),
);
const showCurves = createCurves(place("charts"));

/** @param {string} id */
function place(id) {
  return /** @type {HTMLElement} */ (document.getElementById(id));
}

/** @param {string} id */
const input = (id) => /** @type {HTMLInputElement} */ (place(id));

function remembered() {
  try {
    const { over, log, smoothing } = JSON.parse(localStorage.getItem(LOOK) ?? "{}");
    return {
      ...(["step", "tokens", "seconds"].includes(over) && { over }),
      ...(typeof log === "boolean" && { log }),
      ...(smoothing >= 0 && smoothing <= 0.99 && { smoothing }),
    };
  } catch {
    return {}; // no storage, or something else in it
  }
}

/** @param {Partial<State>} look */
function look(look) {
  store.set(look);
  const { over, log, smoothing } = store.get();
  try {
    localStorage.setItem(LOOK, JSON.stringify({ over, log, smoothing }));
  } catch {
    // it is forgotten, and that is all
  }
}

store.subscribe((state, before) => {
  if (state.names !== before.names || state.run !== before.run || state.compare !== before.compare) showNames(state);
  place("away").hidden = !state.away;
  place("away").textContent = state.away;
  if (state.runs.length && state.runs !== before.runs) showFigures(state.runs);
  const steps = state.answers?.steps ?? [];
  const at = Math.min(state.at ?? Infinity, steps.length - 1);
  if (state.answers && (state.answers !== before.answers || state.at !== before.at)) showAnswers(state.answers, at);
  if (!state.answers) place("answers").hidden = true; // they are another run's
  input("smoothing").value = String(state.smoothing);
  place("smoothing-value").textContent = state.smoothing.toFixed(2);
  input("over").value = state.over;
  input("log").checked = state.log;
  if (state.runs.length) showCurves(state.runs, state, steps[at]?.step ?? null);
});

/** @param {State} state */
function showNames({ names, run, follow, compare }) {
  for (const [id, value, first] of [["run", run, []], ["compare", compare, [["", "nothing"]]]]) {
    const options = [...first, ...names.map((name) => [name, name])].map(([key, text]) => new Option(text, key));
    place(String(id)).replaceChildren(...options);
    input(String(id)).value = String(value);
  }
  const query = new URLSearchParams({ ...(!follow && { run }), ...(compare && { compare }) });
  history.replaceState(null, "", query.size ? `?${query}` : location.pathname);
  document.title = `${run} - nanochat`;
}

/**
 * The run to show: the one that was chosen, else the newest. It stays while it is at work, since two may be.
 * @param {State} state
 * @param {string[]} names
 */
function chosen({ run, follow, runs }, names) {
  const live = runs[0]?.status.name === run && isLive(runs[0]);
  return names.includes(run) && (!follow || live) ? run : (names[0] ?? "");
}

/** @param {Run} run */
const isLive = (run) => ["running", "waiting"].includes(run.status.state);

/** Ask once for everything that may have changed. */
async function refresh() {
  const { every, runs: names } = await askRuns();
  const { run: wanted, compare } = store.get();
  const run = chosen(store.get(), names);
  if (!run) {
    store.set({ every, names, away: "There is no training to watch yet." });
    return;
  }
  const other = names.includes(compare) && compare !== run ? compare : "";
  const held = store.get().runs;
  const before = (/** @type {string} */ name) => held.find((one) => one.status.name === name) ?? null;
  const runs = await Promise.all([run, ...(other ? [other] : [])].map((name) => askRun(name, before(name))));
  const evaluated = runs[0].evals.length;
  const known = before(run)?.evals.length;
  const answers = evaluated === known && store.get().answers ? store.get().answers : await askAnswers(run);
  if (store.get().run !== wanted || store.get().compare !== compare) return; // others were chosen meanwhile
  const at = run === wanted ? store.get().at : null;
  const same = JSON.stringify(store.get().names) === JSON.stringify(names);
  store.set({ every, names: same ? store.get().names : names, run, compare: other, runs, answers, at, away: "" });
}

/** @type {number | undefined} */
let timer;
let asking = 0;

async function loop() {
  clearTimeout(timer);
  const mine = ++asking;
  if (!document.hidden) {
    try {
      await refresh();
    } catch {
      store.set({ away: "The server is away. This page tries again, and shows what it knew." });
    }
  }
  if (mine !== asking) return; // another loop has begun
  const { every, runs } = store.get();
  timer = window.setTimeout(loop, 1000 * every * (runs.some(isLive) || !runs.length ? 1 : 5));
}

place("run").addEventListener("change", () => {
  store.set({ run: input("run").value, follow: false, answers: null, at: null });
  loop();
});
place("compare").addEventListener("change", () => {
  store.set({ compare: input("compare").value });
  loop();
});
place("smoothing").addEventListener("input", () => look({ smoothing: Number(input("smoothing").value) }));
place("over").addEventListener("change", () => look({ over: input("over").value }));
place("log").addEventListener("change", () => look({ log: input("log").checked }));
place("view").addEventListener("submit", (event) => event.preventDefault());
place("moment").addEventListener("input", () => store.set({ at: Number(input("moment").value) }));
document.addEventListener("visibilitychange", () => document.hidden || loop());

place("starting").remove();
loop();
