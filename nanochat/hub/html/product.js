// A matrix times a vector, which takes nearly all the time.

/**
 * @typedef {import("./weights.js").Matrix} Matrix
 * @typedef {(matrix: Matrix, x: Float32Array, y: Float32Array) => void} Product
 * @typedef {{buffer: ArrayBuffer, floats: (length: number) => Float32Array, product: Product}} Arena
 *   floats: numbers in the buffer, behind all that was asked for before; product: of what lies in it
 */

const PAGE = 65536;
const STEP = 16; // inputs that the compiled product takes at a time, and bytes that numbers begin at multiples of

/** Memory for a model.
 * @param {number} bytes that are filled by others, from the beginning on
 * @param {number} floats that will be asked for
 * @param {WebAssembly.Module | null} compiled product_wasm.js; null: JavaScript alone
 * @returns {Arena}
 */
export function createArena(bytes, floats, compiled) {
  const pages = Math.ceil((bytes + 4 * floats + PAGE) / PAGE);
  if (!(pages < PAGE)) throw new RangeError("no memory is as large");
  let buffer = new ArrayBuffer(0);
  /** @type {((...places: number[]) => void) | null} */
  let fast = null;
  if (compiled) {
    const memory = new WebAssembly.Memory({ initial: pages });
    buffer = memory.buffer;
    const { exports } = new WebAssembly.Instance(compiled, { page: { memory } });
    fast = /** @type {(...places: number[]) => void} */ (/** @type {unknown} */ (exports.product));
  } else {
    buffer = new ArrayBuffer(pages * PAGE);
  }
  let end = bytes;
  return {
    buffer,
    floats(length) {
      const start = Math.ceil(end / STEP) * STEP;
      end = start + 4 * length;
      return new Float32Array(buffer, start, length);
    },
    product(matrix, x, y) {
      const { rows, scales } = matrix;
      if (!fast || x.length % STEP) return plainProduct(matrix, x, y);
      fast(rows.byteOffset, scales.byteOffset, x.byteOffset, y.byteOffset, x.length, scales.length);
    },
  };
}

/** @type {Product} */
function plainProduct({ rows, scales }, x, y) {
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
