// Exact numbers: a numerator and a positive denominator without common divisor.

/** @typedef {{n: bigint, d: bigint}} Fraction */

/**
 * @param {bigint} n
 * @param {bigint} [d] not 0
 * @returns {Fraction}
 */
export function fraction(n, d = 1n) {
  let a = magnitude(n), b = magnitude(d);
  while (b) [a, b] = [b, a % b];
  if (d < 0n) a = -a;
  return { n: n / a, d: d / a };
}

/** @param {bigint} x */
export const magnitude = (x) => (x < 0n ? -x : x);

/** @param {bigint} x */
export const bitLength = (x) => (x ? magnitude(x).toString(2).length : 0);

/** Rounded down.
 * @param {bigint} a
 * @param {bigint} b positive
 */
export const floored = (a, b) => (a - (((a % b) + b) % b)) / b;

/** a / b, rounded to the nearest whole number, halves to the even one.
 * @param {bigint} a
 * @param {bigint} b positive
 */
export function rounded(a, b) {
  const below = floored(a, b), twice = 2n * (a - below * b);
  return twice > b || (twice === b && below % 2n !== 0n) ? below + 1n : below;
}

/** The nearest double, as a fraction; null beyond the largest.
 * @param {Fraction} x
 * @returns {Fraction | null}
 */
export function nearestDouble({ n, d }) {
  if (!n) return { n: 0n, d: 1n };
  // Rounded to 53 bits, or to the smallest step that there is.
  let exponent = bitLength(n) - bitLength(d) - 1;
  if (magnitude(n) * power2(-exponent - 1) >= d * power2(exponent + 1)) exponent++;
  const step = Math.max(exponent - 52, -1074);
  const whole = rounded(n * power2(-step), d * power2(step));
  if (bitLength(whole) + step > 1024) return null;
  return fraction(whole * power2(step), power2(-step));
}

/** 2^by, 1 for a negative `by`.
 * @param {number} by
 */
export const power2 = (by) => 1n << BigInt(Math.max(0, by));
