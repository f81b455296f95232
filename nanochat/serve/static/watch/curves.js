// The charts of one run, or of two.

import { createChart } from "./chart.js";
import { bytes, count, digits, percent } from "./words.js";

/**
 * @typedef {import("./data.js").Run} Run
 * @typedef {import("./chart.js").Curve} Curve
 * @typedef {{over: string, log: boolean, smoothing: number}} Options
 */

/** What a step tells: its title, how its numbers are shown, whether a log axis makes sense. */
const STEPS = /** @type {[string, string, (value: number) => string, boolean][]} */ ([
  ["loss", "Loss", digits, true],
  ["reward", "Reward", digits, false],
  ["lr", "Learning rate, share of its peak", percent, false],
  ["tok_per_s", "Tokens per second", count, false],
  ["mfu", "MFU", percent, false],
  ["memory", "Memory", bytes, false],
  ["waited", "Waited for data", (value) => `${digits(value)}s`, false],
  ["kl", "KL to the model at the start", digits, false],
  ["length", "Tokens of an answer", digits, false],
]);

/** @param {HTMLElement} place */
export function createCurves(place) {
  /** @type {Map<string, ReturnType<typeof createChart>>} */
  const charts = new Map();

  /**
   * @param {Run[]} runs one or two
   * @param {Options} options
   * @param {number | null} moment a step to mark in the first run's curves
   */
  return function show(runs, options, moment) {
    const wanted = [...evaluations(runs, options.over), ...steps(runs, options.over)];
    wanted.sort((a, b) => Number(b.name === "loss") - Number(a.name === "loss"));
    const names = wanted.map((chart) => chart.name);
    if ([...charts.keys()].join() !== names.join()) {
      for (const name of charts.keys()) if (!names.includes(name)) charts.delete(name);
      const kept = wanted.map((chart) => charts.get(chart.name) ?? createChart(chart.title));
      charts.clear();
      wanted.forEach((chart, at) => charts.set(chart.name, kept[at]));
      place.replaceChildren(...kept.map((chart) => chart.figure));
    }
    const marked = moment === null ? null : over(runs[0], options.over, moment);
    for (const { name, curves, show, log } of wanted) {
      charts.get(name)?.show({
        curves, show, over: options.over, log: options.log && log, smoothing: options.smoothing, moment: marked,
      });
    }
  };
}

/**
 * @param {Run[]} runs
 * @param {string} place
 */
function steps(runs, place) {
  return STEPS.filter(([name]) => runs.some((run) => run.points.columns[name])).map(([name, title, show, log]) => ({
    name,
    title,
    show,
    log,
    curves: runs.map((run, at) => curve(run, at, run.points.columns[place] ?? [], run.points.columns[name] ?? [])),
  }));
}

/**
 * What was measured at evaluations, which have points of their own.
 * @param {Run[]} runs
 * @param {string} place
 */
function evaluations(runs, place) {
  const beside = new Set(["step", "tokens", "time", "seconds"]);
  const names = new Set(runs.flatMap((run) => run.evals.flatMap((row) => Object.keys(row))).filter((name) => !beside.has(name)));
  return [...names].slice(0, 8).map((name) => ({
    name: `eval ${name}`,
    title: name,
    show: digits,
    log: /loss|bpb/.test(name),
    curves: runs.map((run, at) => {
      const rows = run.evals.filter((row) => name in row);
      return { ...curve(run, at, rows.map((row) => over(run, place, row.step)), rows.map((row) => row[name])), dots: true };
    }),
  }));
}

/**
 * @param {Run} run
 * @param {number} at
 * @param {(number | null)[]} x
 * @param {(number | null)[]} y
 * @returns {Curve}
 */
const curve = (run, at, x, y) => ({ name: run.status.name, look: at ? "other" : "mine", x, y });

/**
 * Tokens or seconds at a step, by the nearest point that is not before it.
 * @param {Run} run
 * @param {string} place
 * @param {number} step
 */
function over(run, place, step) {
  if (place === "step") return step;
  const { columns } = run.points;
  const at = columns.step.findIndex((known) => known !== null && known >= step);
  return columns[place]?.[at < 0 ? columns.step.length - 1 : at] ?? null;
}

