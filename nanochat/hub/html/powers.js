// Powers whose exponent is no whole number. Math.pow is not the same in all browsers, so this does not use it.

import { bitLength, floored, fraction, nearestDouble, power2, rounded } from "./fractions.js";

/** @typedef {import("./fractions.js").Fraction} Fraction */

const BITS = 256; // behind the point
const KEPT = 160; // that are believed, so that a result which is exact comes out exact
const ONE = power2(BITS);

/** base ^ exponent, first both and then the result rounded to doubles, all to the nearest; null beyond the largest.
 * @param {Fraction} base not negative
 * @param {Fraction} exponent
 * @returns {Fraction | null}
 */
export function power(base, exponent) {
  const x = nearestDouble(base), y = nearestDouble(exponent);
  if (!x || !y) return null;
  if (!x.n) return y.n ? x : fraction(1n);
  const ln2 = logarithm(2n, 1n), shift = bitLength(x.n) - bitLength(x.d);
  const log = logarithm(x.n * power2(-shift), x.d * power2(shift)) + BigInt(shift) * ln2;
  const product = rounded(log * y.n, y.d), twos = floored(product, ln2);
  if (twos > 1100n) return null;
  if (twos < -1100n) return fraction(0n);
  const scale = Number(twos) - KEPT, leading = rounded(exponential(product - twos * ln2), power2(BITS - KEPT));
  return nearestDouble({ n: leading * power2(scale), d: power2(-scale) });
}

/** Of a / b, which is between 1/2 and 2: 2 (z + z^3 / 3 + z^5 / 5 + ...) where z = (a - b) / (a + b).
 * @param {bigint} a
 * @param {bigint} b
 */
function logarithm(a, b) {
  const z = ((a - b) * ONE) / (a + b), square = (z * z) / ONE;
  let sum = 0n;
  for (let term = z, i = 1n; term; term = (term * square) / ONE, i += 2n) sum += term / i;
  return 2n * sum;
}

/** Of x between 0 and ln 2.
 * @param {bigint} x
 */
function exponential(x) {
  let sum = 0n;
  for (let term = ONE, i = 1n; term; term = (term * x) / ONE / i, i++) sum += term;
  return sum;
}
