// A matrix times a vector, which takes nearly all the time.

/** @typedef {import("./weights.js").Matrix} Matrix */

/**
 * @param {Matrix} matrix
 * @param {Float32Array} x
 * @param {Float32Array} y
 */
export function product({ rows, scales }, x, y) {
  const n = x.length, outputs = scales.length;
  let o = 0;
  for (; o + 4 <= outputs; o += 4) {
    // Four outputs at a time, so that an input is read once for all of them.
    const first = o * n, second = first + n, third = second + n, fourth = third + n;
    let a = 0, b = 0, c = 0, d = 0;
    for (let i = 0; i < n; i++) {
      const input = x[i];
      a += rows[first + i] * input;
      b += rows[second + i] * input;
      c += rows[third + i] * input;
      d += rows[fourth + i] * input;
    }
    y[o] = a * scales[o];
    y[o + 1] = b * scales[o + 1];
    y[o + 2] = c * scales[o + 2];
    y[o + 3] = d * scales[o + 3];
  }
  for (; o < outputs; o++) {
    let sum = 0;
    for (let i = 0, at = o * n; i < n; i++, at++) sum += rows[at] * x[i];
    y[o] = sum * scales[o];
  }
}
