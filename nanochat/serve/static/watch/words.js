// Numbers as a person reads them.

/** @param {number} value */
export function digits(value) {
  if (value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e15)) return value.toExponential(2);
  return Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(4)));
}

/**
 * 812, 479 K, 7.86 M.
 * @param {number} value
 */
export function count(value) {
  for (const [size, letter] of /** @type {[number, string][]} */ ([[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "K"]])) {
    if (Math.abs(value) >= size) return `${Number((value / size).toPrecision(3))} ${letter}`;
  }
  return digits(value);
}

/** @param {number} value */
export const bytes = (value) => `${count(value).replace(" B", " G").replace(" K", " k")}B`.replace(/(\d)B$/, "$1 B");

/** @param {number} value */
export const percent = (value) => `${Number((100 * value).toPrecision(3))}%`;

/** @param {number} value */
export const dollars = (value) => `$${value.toLocaleString("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 })}`;

/**
 * 12s, 3m05s, 1h02m, 3d04h.
 * @param {number} seconds
 */
export function span(seconds) {
  const s = Math.round(seconds);
  /** @param {number} n */
  const two = (n) => String(n).padStart(2, "0");
  if (s < 60) return `${s}s`;
  if (s < 3600) return `${Math.floor(s / 60)}m${two(s % 60)}s`;
  if (s < 172800) return `${Math.floor(s / 3600)}h${two(Math.floor((s % 3600) / 60))}m`;
  return `${Math.floor(s / 86400)}d${two(Math.floor((s % 86400) / 3600))}h`;
}
