// The calculator of nanochat/tools/calculator.py: the same grammar, limits and results. Nothing is ever run as code.

import { bitLength, floored, fraction, magnitude, rounded } from "./fractions.js";
import { power } from "./powers.js";

/**
 * @typedef {import("./fractions.js").Fraction} Fraction
 * @typedef {{kind: "number" | "string" | "operator" | "end", text: string}} Item
 */

const MOST_CHARACTERS = 1000;
const MOST_DEPTH = 40; // nesting of parentheses, signs and powers
const MOST_BITS = 1024; // of any numerator or denominator
const DECIMALS = 10;
const SPACE = "[ \\t\\n\\r\\f\\v]";
const NUMBER = "[0-9]{1,3}(?:,[0-9]{3})+(?![0-9,])(?:\\.[0-9]*)?|[0-9]+(?:\\.[0-9]*)?|\\.[0-9]+";
const STRING = "\"[^\"\\\\\\n]*\"|'[^'\\\\\\n]*'";
const OPERATOR = `\\*\\*|//|[-+*/%()]|\\.${SPACE}*count\\b|len\\b`;
const ITEM = new RegExp(`${SPACE}*(?:(${NUMBER})|(${STRING})|(${OPERATOR}))`, "y");
// What Python's strip() takes away.
const EDGE = "[\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]+";
const EDGES = new RegExp(`^${EDGE}|${EDGE}$`, "g");

class IllegalExpression extends Error {}

/** The value as text, or null where `expression` is not legal.
 * @param {string} expression
 */
export function calculate(expression) {
  try {
    return shown(valueOf(itemsOf(expression)));
  } catch (error) {
    if (error instanceof IllegalExpression) return null;
    throw error;
  }
}

/** @param {string} expression */
function itemsOf(expression) {
  if (Array.from(expression).length > MOST_CHARACTERS) throw new IllegalExpression();
  const text = expression.replace(EDGES, "");
  /** @type {Item[]} */
  const items = [];
  for (ITEM.lastIndex = 0; ITEM.lastIndex < text.length; ) {
    const match = ITEM.exec(text);
    if (!match) throw new IllegalExpression();
    const [, number, string, operator] = match;
    if (number !== undefined) items.push({ kind: "number", text: number });
    else if (string !== undefined) items.push({ kind: "string", text: string });
    else items.push({ kind: "operator", text: operator.endsWith("count") ? ".count" : operator });
  }
  items.push({ kind: "end", text: "" });
  return items;
}

/** @param {Item[]} items */
function valueOf(items) {
  let place = 0, depth = 0;
  const result = sum();
  if (items[place].kind !== "end") throw new IllegalExpression();
  return result;

  /** Steps over the next item if it is one of these operators.
   * @param {string[]} operators
   */
  function accept(...operators) {
    const { kind, text } = items[place];
    if (kind !== "operator" || !operators.includes(text)) return "";
    place++;
    return text;
  }

  /** @param {string} operator */
  function require(operator) {
    if (!accept(operator)) throw new IllegalExpression();
  }

  function sum() {
    let left = product();
    for (let operator = accept("+", "-"); operator; operator = accept("+", "-")) {
      const right = product(), sign = operator === "+" ? 1n : -1n;
      left = bounded(fraction(left.n * right.d + sign * right.n * left.d, left.d * right.d));
    }
    return left;
  }

  function product() {
    let left = unary();
    for (let operator = next(); operator; operator = next()) {
      const right = unary();
      if (operator === "*") {
        left = bounded(fraction(left.n * right.n, left.d * right.d));
        continue;
      }
      if (!right.n) throw new IllegalExpression();
      const quotient = fraction(left.n * right.d, left.d * right.n), whole = floored(quotient.n, quotient.d);
      if (operator === "/") left = bounded(quotient);
      else if (operator === "//") left = bounded(fraction(whole));
      else left = bounded(fraction(left.n * right.d - whole * right.n * left.d, left.d * right.d));
    }
    return left;
  }

  function next() {
    return accept("*", "/", "//", "%");
  }

  /** @returns {Fraction} */
  function unary() {
    if (++depth > MOST_DEPTH) throw new IllegalExpression(); // every way to recurse passes here
    const sign = accept("-", "+"), { n, d } = sign ? unary() : powers();
    depth--;
    return { n: sign === "-" ? -n : n, d };
  }

  function powers() {
    const base = atom();
    return accept("**") ? raised(base, unary()) : base;
  }

  function atom() {
    if (accept("(")) {
      const result = sum();
      require(")");
      return result;
    }
    if (accept("len")) {
      require("(");
      const result = fraction(BigInt(string().length));
      require(")");
      return result;
    }
    const { kind, text } = items[place];
    if (kind === "string") {
      const whole = string();
      require(".count");
      require("(");
      const result = fraction(BigInt(occurrences(whole, string())));
      require(")");
      return result;
    }
    if (kind !== "number") throw new IllegalExpression();
    place++;
    if (text.length * 4 > MOST_BITS * 2) throw new IllegalExpression();
    const [before, after = ""] = text.replaceAll(",", "").split(".");
    return bounded(fraction(BigInt(before + after), 10n ** BigInt(after.length)));
  }

  /** Its characters. */
  function string() {
    const { kind, text } = items[place];
    if (kind !== "string") throw new IllegalExpression();
    place++;
    return Array.from(text.slice(1, -1));
  }
}

/** How often `part` occurs without overlapping.
 * @param {string[]} whole
 * @param {string[]} part
 */
function occurrences(whole, part) {
  if (!part.length) return whole.length + 1;
  let count = 0;
  for (let i = 0; i + part.length <= whole.length; )
    if (part.every((character, j) => whole[i + j] === character)) (i += part.length), count++;
    else i++;
  return count;
}

/**
 * @param {Fraction | null} value
 * @returns {Fraction}
 */
function bounded(value) {
  if (!value || Math.max(bitLength(value.n), bitLength(value.d)) > MOST_BITS) throw new IllegalExpression();
  return value;
}

/**
 * @param {Fraction} base
 * @param {Fraction} exponent
 */
function raised(base, exponent) {
  if (!base.n && exponent.n < 0n) throw new IllegalExpression();
  if (exponent.d !== 1n) {
    if (base.n < 0n) throw new IllegalExpression();
    return bounded(power(base, exponent));
  }
  const bits = BigInt(Math.max(bitLength(base.n), bitLength(base.d))), by = magnitude(exponent.n);
  if ((bits - 1n) * by > MOST_BITS) throw new IllegalExpression();
  if (!by) return fraction(1n);
  if (bits <= 1n) return by % 2n ? base : fraction(base.n * base.n); // 0, 1 and -1
  return bounded(exponent.n < 0n ? fraction(base.d ** by, base.n ** by) : { n: base.n ** by, d: base.d ** by });
}

/** Fractions are rounded to ten decimals; very small ones keep ten significant digits.
 * @param {Fraction} value
 */
function shown({ n, d }) {
  if (d === 1n) return String(n);
  let decimals = DECIMALS;
  while (magnitude(n) * 10n ** BigInt(decimals) < d * 10n ** BigInt(DECIMALS - 4)) decimals += 6;
  const scaled = rounded(n * 10n ** BigInt(decimals), d);
  const digits = String(magnitude(scaled)).padStart(decimals + 1, "0");
  const text = `${digits.slice(0, -decimals)}.${digits.slice(-decimals)}`.replace(/0+$/, "").replace(/\.$/, "");
  return scaled < 0n ? `-${text}` : text;
}
