// Tokens and their probabilities in words and shades, so that no colour alone tells anything.

import { element } from "../dom.js";

/** From the likeliest on: how likely at least, and what that is called. */
export const BANDS = /** @type {[number, string][]} */ ([
  [0.9, "90% or more"],
  [0.5, "50 to 90%"],
  [0.2, "20 to 50%"],
  [0.05, "5 to 20%"],
  [0, "less than 5%"],
]);

/** Shares of attention, from the largest on. */
export const SHARES = /** @type {[number, string][]} */ ([
  [0.3, "30% or more"],
  [0.1, "10 to 30%"],
  [0.03, "3 to 10%"],
  [0.01, "1 to 3%"],
  [0, "less than 1%"],
]);

/**
 * @param {number} share
 * @param {[number, string][]} bands
 */
export const bandOf = (share, bands) => bands.findIndex(([least]) => share >= least);

/** @param {number} share */
export function percent(share) {
  if (share < 0.001) return "<0.1%";
  const exact = share < 0.1 || (share >= 0.995 && share < 1); // nothing but 1 is 100%
  return exact ? `${Math.min(99.9, 100 * share).toFixed(1)}%` : `${Math.round(100 * share)}%`;
}

/**
 * A token's text with what cannot be seen in it.
 * @param {string} text
 */
export function visible(text) {
  if (text === "" || /^\ufffd+$/.test(text)) return "part of a character";
  return text
    .replaceAll(" ", "␣")
    .replaceAll("\n", "↵")
    .replaceAll("\t", "⇥")
    .replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, (sign) => `‹U+${(sign.codePointAt(0) ?? 0).toString(16).toUpperCase().padStart(4, "0")}›`);
}

/**
 * A token as one of a list or in a sentence: set apart, whatever it holds.
 * @param {string} text
 * @param {boolean} special
 */
export function named(text, special) {
  return element("bdi", special ? "name special" : "name", special ? text : visible(text));
}

/** @param {number} share */
export function bar(share) {
  const track = element("span", "bar");
  const filled = element("span");
  filled.style.width = `${(100 * share).toFixed(2)}%`;
  track.append(filled);
  track.setAttribute("aria-hidden", "true");
  return track;
}

/**
 * What the shades mean.
 * @param {string} words
 * @param {string} kind of the class names
 * @param {[number, string][]} bands
 */
export function legend(words, kind, bands) {
  const list = element("ul", "legend");
  list.setAttribute("aria-label", words);
  list.append(
    ...bands.map(([, what], band) => {
      const item = element("li");
      const sample = element("span", `${kind} ${kind}-${band}`, "abc");
      sample.setAttribute("aria-hidden", "true");
      item.append(sample, ` ${what}`);
      return item;
    }),
  );
  return list;
}
