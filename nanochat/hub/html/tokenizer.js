// Text to ids and back, with the ids of nanochat/tokenizer.

import { createSplitter } from "./splitting.js";

/**
 * @typedef {ReturnType<typeof createTokenizer>} Tokenizer
 * @typedef {{digits: number, special: string[]}} TokenizerFacts
 */

const POSITIONS = 2 ** 31; // more than a text has bytes
const NONE = -1;

/**
 * @param {TokenizerFacts} facts special: names, whose ids follow those of the learnt tokens
 * @param {Uint8Array} bytes of all learnt tokens in turn
 * @param {Uint32Array} lengths of the tokens
 * @param {Uint32Array} ranges of Unicode
 */
export function createTokenizer({ digits, special }, bytes, lengths, ranges) {
  const split = createSplitter(ranges, digits);
  /** @type {Uint8Array[]} */
  const tokens = [];
  /** @type {Map<string, number>} */
  const ids = new Map();
  let longest = 0;
  for (let id = 0, at = 0; id < lengths.length; at += lengths[id++]) {
    tokens.push(bytes.subarray(at, at + lengths[id]));
    ids.set(binary(tokens[id]), id);
    longest = Math.max(longest, lengths[id]);
  }

  /** Whatever the text says, never a special id.
   * @param {string} text
   */
  function encode(text) {
    const data = new TextEncoder().encode(text); // unpaired surrogates become U+FFFD
    const whole = binary(data);
    /** @type {number[]} */
    const found = [];
    split(data, (start, end) => {
      const chunk = whole.slice(start, end), id = end - start <= longest ? ids.get(chunk) : undefined;
      if (id === undefined) merge(chunk, found);
      else found.push(id);
    });
    return found;
  }

  // Of the part of a chunk that starts at each place. Kept, since a text has many chunks.
  let ends = new Int32Array(64), before = new Int32Array(64), merged = new Int32Array(64);
  const queue = createQueue();

  /** Merges, again and again, the neighbours whose token has the lowest id; among equals, the first.
   * @param {string} chunk
   * @param {number[]} found
   */
  function merge(chunk, found) {
    const n = chunk.length;
    if (ends.length < n) [ends, before, merged] = [0, 0, 0].map(() => new Int32Array(2 * n));
    /** @param {number} start */
    const consider = (start) => {
      const end = ends[start] < n ? ends[ends[start]] : Infinity;
      const id = end - start <= longest ? (ids.get(chunk.slice(start, end)) ?? NONE) : NONE;
      merged[start] = id;
      if (id !== NONE) queue.add(id * POSITIONS + start);
    };
    for (let i = 0; i < n; i++) (ends[i] = i + 1), (before[i] = i - 1);
    for (let i = 0; i < n; i++) consider(i);
    for (let least = queue.take(); least !== undefined; least = queue.take()) {
      const start = least % POSITIONS, id = Math.floor(least / POSITIONS);
      if (merged[start] !== id) continue; // one of the two is part of another token by now
      const next = ends[start];
      ends[start] = ends[next];
      merged[next] = NONE;
      if (ends[start] < n) before[ends[start]] = start;
      consider(start);
      if (start) consider(before[start]);
    }
    for (let i = 0; i < n; i = ends[i]) found.push(/** @type {number} */ (ids.get(chunk.slice(i, ends[i]))));
  }

  const size = tokens.length + special.length;
  return {
    encode,
    longest,
    size,
    /** @param {string} name */
    special(name) {
      const place = special.indexOf(name);
      if (place < 0) throw new Error(`the tokenizer has no ${name}`);
      return tokens.length + place;
    },
    specials: special.map((_, place) => tokens.length + place),
    /** @param {number} id */
    textOf: (id) => special[id - tokens.length] ?? new TextDecoder("utf-8", { ignoreBOM: true }).decode(tokens[id]),
    /** Text of a growing list of ids: bytes of an unfinished character wait for the rest. */
    stream() {
      let utf8 = new TextDecoder("utf-8", { ignoreBOM: true });
      return {
        /** @param {number} id */
        feed: (id) => utf8.decode(tokens[id] ?? new TextEncoder().encode(special[id - tokens.length]), { stream: true }),
        finish: () => utf8.decode(),
      };
    },
  };
}

/** A character for each byte.
 * @param {Uint8Array} bytes
 */
function binary(bytes) {
  let text = "";
  for (let i = 0; i < bytes.length; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192));
  return text;
}

/** Numbers, of which the least is taken first. */
function createQueue() {
  /** @type {number[]} */
  const heap = [];
  return {
    /** @param {number} value */
    add(value) {
      let i = heap.length;
      for (; i > 0; ) {
        const parent = (i - 1) >> 1;
        if (heap[parent] <= value) break;
        heap[i] = heap[parent];
        i = parent;
      }
      heap[i] = value;
    },
    take() {
      const least = heap[0], value = heap.pop();
      if (value === undefined || !heap.length) return least;
      let i = 0;
      for (let child = 1; child < heap.length; child = 2 * i + 1) {
        if (child + 1 < heap.length && heap[child + 1] < heap[child]) child++;
        if (heap[child] >= value) break;
        heap[i] = heap[child];
        i = child;
      }
      heap[i] = value;
      return least;
    },
  };
}
