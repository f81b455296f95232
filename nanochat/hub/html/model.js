// The GPT, one token at a time: what csrc/native computes with weights in eight bits and all else in float32.

/**
 * @typedef {import("./weights.js").Matrix} Matrix
 * @typedef {import("./weights.js").Table} Table
 * @typedef {import("./weights.js").Tensors} Tensors
 * @typedef {{
 *   depth: number, width: number, heads: number, kvHeads: number, headDim: number, vocab: number, window: number,
 *   modern: boolean, windows: number[], values: boolean[], pairs: number, scale: number, eps: number, softcap: number,
 *   ropeBase: number
 * }} Sizes
 *   windows: how many tokens before itself a position of each layer sees; values: whether a layer has value embeddings;
 *   pairs: rows of the table of token pairs
 * @typedef {{
 *   qkv: Matrix[], out: Matrix, up: Matrix, down: Matrix, window: number, keys: Float32Array, values: Float32Array,
 *   table: Table | null, gate: Float32Array, resid: number, first: number, pair: number
 * }} Layer
 * @typedef {ReturnType<typeof createModel>} Model
 */

const FIRST_ROOM = 256; // positions that keys and values have room for at first

/**
 * @param {Sizes} sizes
 * @param {Tensors} tensors
 * @param {import("./product.js").Arena} arena with room for so many floats as `scratch` says
 */
export function createModel(sizes, tensors, { floats, product }) {
  const { depth, width, heads, kvHeads, headDim, modern, eps } = sizes;
  const kvWidth = kvHeads * headDim, half = headDim / 2;
  const embed = tensors.table("embed"), head = tensors.matrix("head");
  const pairTable = sizes.pairs ? tensors.table("pairs") : null;
  const [smear, smearBy, backout] = modern ? ["smear", "smear_lambda", "backout_lambda"].map(tensors.numbers) : [];
  const ones = new Float32Array(depth).fill(1), zeros = new Float32Array(depth);
  const resid = modern ? tensors.numbers("resid_lambdas") : ones, first = modern ? tensors.numbers("x0_lambdas") : zeros;
  const pairBy = sizes.pairs ? tensors.numbers("pair_lambdas") : zeros;
  /** @type {Layer[]} */
  const layers = Array.from({ length: depth }, (_, i) => ({
    qkv: ["q", "k", "v"].map((name) => tensors.matrix(`${i}.${name}`)),
    out: tensors.matrix(`${i}.out`),
    up: tensors.matrix(`${i}.up`),
    down: tensors.matrix(`${i}.down`),
    window: sizes.windows[i],
    keys: new Float32Array(0),
    values: new Float32Array(0),
    table: sizes.values[i] ? tensors.table(`${i}.values`) : null,
    gate: sizes.values[i] ? tensors.numbers(`${i}.gate`) : zeros,
    resid: resid[i],
    first: first[i],
    pair: pairBy[i],
  }));
  const { cos, sin } = tensors.has("cos")
    ? { cos: tensors.numbers("cos"), sin: tensors.numbers("sin") }
    : rotary(sizes.window, headDim, sizes.ropeBase);

  const x = new Float32Array(width), x0 = new Float32Array(width), middle = new Float32Array(width);
  const pairs = new Float32Array(width), value = new Float32Array(kvWidth), scores = new Float64Array(sizes.window);
  const [seen, y, looked, q] = [0, 0, 0, 0].map(() => floats(width)), [k, v] = [0, 0].map(() => floats(kvWidth));
  const hidden = floats(4 * width), logits = floats(sizes.vocab);
  /** @type {number[]} */
  const held = []; // ids whose keys and values are there

  /** Room for more positions.
   * @param {number} position
   */
  function reserve(position) {
    const room = layers[0].keys.length / kvWidth;
    if (position < room) return;
    const larger = Math.min(sizes.window, Math.max(FIRST_ROOM, 2 * room, position + 1));
    for (const layer of layers) {
      layer.keys = enlarged(layer.keys, larger * kvWidth);
      layer.values = enlarged(layer.values, larger * kvWidth);
    }
  }

  /** The token's vector; in the modern model with a gated share of the token before.
   * @param {number} id
   * @param {number} before -1: there is none
   */
  function embedToken(id, before) {
    embed.read(id, x);
    norm(x, x, eps);
    if (!modern) return;
    if (before >= 0) {
      const gate = smearBy[0] * sigmoid(dot(smear, 0, x, 0, smear.length));
      embed.read(before, seen);
      norm(seen, seen, eps);
      addScaled(x, gate, seen);
    }
    x0.set(x);
    if (pairTable) pairTable.read(pairHash(before, id, sizes.pairs), pairs);
  }

  /** Turns a head by its position, and normalises it.
   * @param {Float32Array} head
   * @param {number} position
   */
  function turn(head, position) {
    for (let i = 0, at = position * half; i < half; i++, at++) {
      const a = head[i], b = head[i + half];
      head[i] = a * cos[at] + b * sin[at];
      head[i + half] = b * cos[at] - a * sin[at];
    }
    norm(head, head, eps);
  }

  /** Queries, keys and values of the normalised state in `seen`; keys and values are kept.
   * @param {Layer} layer
   * @param {number} id
   * @param {number} position
   */
  function project(layer, id, position) {
    [q, k, v].forEach((out, place) => product(layer.qkv[place], seen, out));
    for (let at = 0; at < width; at += headDim) turn(q.subarray(at, at + headDim), position);
    for (let at = 0; at < kvWidth; at += headDim) turn(k.subarray(at, at + headDim), position);
    if (layer.table) {
      layer.table.read(id, value);
      const channels = layer.gate.length / kvHeads;
      for (let g = 0; g < kvHeads; g++) {
        const gate = 3 * sigmoid(dot(layer.gate, g * channels, seen, 0, channels));
        for (let i = g * headDim; i < (g + 1) * headDim; i++) v[i] += gate * value[i];
      }
    }
    layer.keys.set(k, position * kvWidth);
    layer.values.set(v, position * kvWidth);
  }

  /** What each head sees, into `looked`.
   * @param {Layer} layer
   * @param {number} position
   */
  function attend({ keys, values, window }, position) {
    const begin = Math.max(0, position - window);
    for (let h = 0; h < heads; h++) {
      const from = h * headDim, group = Math.floor((h * kvHeads) / heads) * headDim;
      let most = -Infinity, total = 0;
      for (let t = begin; t <= position; t++) {
        scores[t] = sizes.scale * dot(q, from, keys, t * kvWidth + group, headDim);
        if (!(scores[t] <= most)) most = scores[t];
      }
      for (let t = begin; t <= position; t++) total += scores[t] = Math.exp(scores[t] - most);
      looked.fill(0, from, from + headDim);
      for (let t = begin; t <= position; t++) {
        const weight = scores[t] / total;
        for (let i = from, at = t * kvWidth + group; i < from + headDim; i++, at++) looked[i] += weight * values[at];
      }
    }
  }

  /** Computes the next token, which comes after those that are held.
   * @param {number} id
   */
  function step(id) {
    const position = held.length, before = position ? held[position - 1] : -1;
    reserve(position);
    embedToken(id, before);
    layers.forEach((layer, i) => {
      if (modern) {
        for (let j = 0; j < width; j++) x[j] = layer.resid * x[j] + layer.first * x0[j];
        if (pairTable) addScaled(x, layer.pair, pairs);
      }
      norm(x, seen, eps);
      project(layer, id, position);
      attend(layer, position);
      product(layer.out, looked, y);
      addScaled(x, 1, y);
      norm(x, seen, eps);
      product(layer.up, seen, hidden);
      for (let j = 0; j < hidden.length; j++) hidden[j] = hidden[j] > 0 ? hidden[j] * hidden[j] : 0 * hidden[j];
      product(layer.down, hidden, y);
      addScaled(x, 1, y);
      if (modern && i === depth >> 1) middle.set(x);
    });
    held.push(id);
  }

  return {
    sizes,
    /** Forgets all but what the given ids have in common with those that are held, and says how many those are.
     * @param {number[]} ids
     */
    keep(ids) {
      let same = 0;
      while (same < Math.min(held.length, ids.length - 1) && held[same] === ids[same]) same++;
      held.length = same;
      return same;
    },
    step,
    /** Logits after the newest token; to be used before the next call. */
    logits() {
      if (modern) addScaled(x, -backout[0], middle);
      norm(x, seen, eps);
      product(head, seen, logits);
      for (let i = 0; i < logits.length; i++) logits[i] = sizes.softcap * Math.tanh(logits[i] / sizes.softcap);
      return logits;
    },
  };
}

/** Floats of an arena that a model takes at most.
 * @param {Sizes} sizes
 */
export const scratch = ({ width, vocab }) => 10 * width + vocab + 64;

/** A row in [0, rows) for every pair of tokens. The products have more bits than those that ^ looks at.
 * @param {number} before
 * @param {number} id
 * @param {number} rows
 */
function pairHash(before, id, rows) {
  const a = (before + 1) * 36313, b = id * 27191, upper = 2 ** 32;
  return (((a / upper) ^ (b / upper)) * upper + ((a ^ b) >>> 0)) % rows;
}

/**
 * @param {number} length
 * @param {number} headDim
 * @param {number} base
 */
function rotary(length, headDim, base) {
  const half = headDim / 2, cos = new Float32Array(length * half), sin = new Float32Array(length * half);
  for (let at = 0; at < cos.length; at++) {
    const angle = Math.floor(at / half) / base ** ((2 * (at % half)) / headDim);
    cos[at] = Math.cos(angle);
    sin[at] = Math.sin(angle);
  }
  return { cos, sin };
}

/**
 * @param {Float32Array} from
 * @param {Float32Array} to
 * @param {number} eps
 */
function norm(from, to, eps) {
  let sum = 0;
  for (let i = 0; i < from.length; i++) sum += from[i] * from[i];
  const by = 1 / Math.sqrt(sum / from.length + eps);
  for (let i = 0; i < from.length; i++) to[i] = from[i] * by;
}

/**
 * @param {Float32Array} a
 * @param {number} i where it begins
 * @param {Float32Array} b
 * @param {number} j
 * @param {number} n
 */
function dot(a, i, b, j, n) {
  let sum = 0;
  for (const end = i + n; i < end; i++, j++) sum += a[i] * b[j];
  return sum;
}

/**
 * @param {Float32Array} x
 * @param {number} by
 * @param {Float32Array} y
 */
function addScaled(x, by, y) {
  for (let i = 0; i < x.length; i++) x[i] += by * y[i];
}

/** @param {number} x */
const sigmoid = (x) => 1 / (1 + Math.exp(-x));

/**
 * @param {Float32Array} held
 * @param {number} length
 */
function enlarged(held, length) {
  const larger = new Float32Array(length);
  larger.set(held);
  return larger;
}
