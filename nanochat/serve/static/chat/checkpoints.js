// The checkpoints of the machine, as the server lists them and as a person reads them.

import { bytes } from "../watch/words.js";

/** @typedef {import("./state.js").Model} Model */

const MOST = 5000; // that are listed
const ROWS = 200; // of a card
const STAGES = ["base", "mid", "sft", "rl"]; // in the order in which a model goes through them
const TITLES = /** @type {Record<string, string>} */ ({
  base: "base: continues text",
  mid: "mid: learnt the form of a chat",
  sft: "sft: learnt from good answers",
  rl: "rl: learnt from rewards",
});
const AGES = /** @type {[Intl.RelativeTimeFormatUnit, number][]} */ ([
  ["year", 31_536_000], ["month", 2_592_000], ["day", 86_400], ["hour", 3600], ["minute", 60],
]);
const ago = new Intl.RelativeTimeFormat("en", { numeric: "always" });

/**
 * "sft/d4, step 1,000" of sft/d4/1000. What is no such name stays what it is.
 * @param {string} id
 */
export function nameOf(id) {
  const [, run, step] = /^(.+)\/(\d{1,15})$/s.exec(id) ?? [];
  return run ? `${run}, step ${Number(step).toLocaleString("en")}` : id;
}

/** @param {number} parameters */
export function sizeOf(parameters) {
  if (!parameters) return "";
  return `${parameters >= 1e6 ? `${(parameters / 1e6).toFixed(0)}M` : `${Math.ceil(parameters / 1e3)}K`} parameters`;
}

/**
 * The models among what a server told, each name once.
 * @param {unknown} told
 * @returns {Model[]}
 */
export function modelsOf(told) {
  /** @type {Map<string, Model>} */
  const found = new Map();
  for (const one of Array.isArray(told) ? told.slice(0, MOST) : []) {
    const { id, stage, tag, step, bytes, written, own, loaded, chat } = /** @type {Partial<Model>} */ (one ?? {});
    if (typeof id !== "string" || !id || typeof stage !== "string" || typeof tag !== "string" || !isCount(step)) continue;
    found.set(id, {
      id, stage, tag, step, bytes: isCount(bytes) ? bytes : null, written: isCount(written) ? written : null,
      own: own === true, loaded: loaded === true, chat: chat !== false,
    });
  }
  return [...found.values()];
}

/**
 * @param {unknown} value
 * @returns {value is number}
 */
const isCount = (value) => typeof value === "number" && value >= 0 && value < 1e15;

/**
 * @param {unknown} told
 * @param {string} id
 * @returns {import("./card.js").Card}
 */
export function cardOf(told, id) {
  const { depth, parameters, window, vocab_size, trained, scores } = /** @type {Record<string, unknown>} */ (told ?? {});
  const size = (/** @type {unknown} */ value) => (isCount(value) ? value : null);
  const sizes = { depth: size(depth), parameters: size(parameters), window: size(window), vocab_size: size(vocab_size) };
  return { id, ...sizes, trained: rowsOf(trained), scores: rowsOf(scores) };
}

/**
 * @param {unknown} told
 * @returns {[string, string][]}
 */
function rowsOf(told) {
  const rows = Array.isArray(told) ? told.slice(0, ROWS).filter((row) => Array.isArray(row) && row.length === 2) : [];
  return rows.map(([name, value]) => [String(name), String(value)]);
}

/**
 * Those whose names have all the words, by stage; within it the run that was written last first, its newest step first.
 * @param {Model[]} models
 * @param {string} words
 * @returns {{title: string, models: Model[]}[]}
 */
export function grouped(models, words) {
  const wanted = words.toLowerCase().split(/[\s,/]+/).filter(Boolean);
  const fit = models.filter((one) => {
    const name = `${one.id} ${nameOf(one.id)}`.toLowerCase();
    return wanted.every((word) => name.includes(word));
  });
  const stages = [...new Set([...STAGES, ...fit.map((one) => one.stage)])];
  return stages
    .map((stage) => ({ title: TITLES[stage] ?? stage, models: ordered(fit.filter((one) => one.stage === stage)) }))
    .filter((group) => group.models.length > 0);
}

/** @param {Model[]} models of one stage */
function ordered(models) {
  /** @type {Map<string, number>} */
  const written = new Map();
  for (const { tag, written: time } of models) written.set(tag, Math.max(written.get(tag) ?? 0, time ?? 0));
  const last = (/** @type {Model} */ one) => written.get(one.tag) ?? 0;
  return models.sort((a, b) => last(b) - last(a) || (a.tag < b.tag ? -1 : a.tag > b.tag ? 1 : 0) || b.step - a.step);
}

/**
 * "92.3 MB, 3 hours ago, loaded".
 * @param {Model} model
 * @param {number} now ms
 */
export function about({ bytes: size, written, own, loaded }, now) {
  const known = [size === null ? "" : bytes(size), written === null ? "" : ageOf(now / 1000 - written)];
  return [...known, own ? "the server's own" : loaded ? "loaded" : ""].filter(Boolean).join(", ");
}

/** @param {number} seconds */
function ageOf(seconds) {
  const [unit, length] = AGES.find(([, length]) => seconds >= length) ?? [];
  return unit && length ? ago.format(-Math.floor(seconds / length), unit) : "just now";
}
