// How fast an answer comes: seen here while it comes, and told by the server at its end.

/**
 * @typedef {import("./tree.js").Node} Node
 * @typedef {{speed: number | null, first: number | null}} Pace
 *   speed: tokens per second, from the first one on; first: seconds until that one. null: not known (yet)
 */

const WINDOW = 5000; // ms over which the speed of a running answer is taken
const LEAST = 400; // ms before it says anything

/** Looks at one answer after another. */
export function createPace() {
  let key = "";
  let began = 0;
  let had = 0;
  /** @type {{time: number, tokens: number}[]} */
  let seen = [];
  /** @type {number | null} */
  let first = null;

  /**
   * @param {Node} node
   * @param {boolean} running
   * @param {number} [now] ms
   * @returns {Pace}
   */
  return (node, running, now = performance.now()) => {
    if (!running) return ofEnd(node);
    const { id, pending, start, tokens = [] } = node;
    if (key !== id + pending) {
      key = id + pending;
      began = start && start.id === pending ? NaN : now; // NaN: its beginning was not seen
      had = tokens.length;
      seen = [];
      first = null;
    }
    if (tokens.length < had) had = tokens.length; // begun anew
    if (tokens.length > (seen.at(-1)?.tokens ?? had)) {
      if (seen.length === 0 && !Number.isNaN(began)) first = (now - began) / 1000;
      seen.push({ time: now, tokens: tokens.length });
      while (seen.length > 2 && now - seen[0].time > WINDOW) seen.shift();
    }
    const [from, to] = [seen[0], seen.at(-1)];
    const speed = from && to && to.time - from.time >= LEAST ? (1000 * (to.tokens - from.tokens)) / (to.time - from.time) : null;
    return { speed, first };
  };
}

/**
 * @param {Node} node
 * @returns {Pace}
 */
function ofEnd({ end }) {
  if (!end || end.first === null) return { speed: null, first: null };
  const { tokens, seconds, first } = end;
  return { speed: tokens > 1 && seconds > first ? (tokens - 1) / (seconds - first) : null, first };
}

/** @param {number} speed tokens per second */
export const speedOf = (speed) => `${speed >= 100 ? Math.round(speed).toLocaleString("en") : speed.toFixed(1)} tokens/s`;

/** @param {number} seconds */
export const secondsOf = (seconds) => `${seconds < 10 ? seconds.toFixed(2) : seconds.toFixed(1)} s`;
