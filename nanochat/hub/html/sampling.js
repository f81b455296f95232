// Choosing the next token: what each setting means is said in nanochat/inference/sampling.py.

/**
 * @typedef {{temperature: number, topK: number, topP: number}} Sampling
 *   temperature 0: the likeliest token; topK 0: the whole vocabulary; topP 1: all that topK left
 * @typedef {{id: number, p: number, likely: [id: number, p: number][]}} Choice
 *   p: the model's own probabilities, before all settings
 */

const TOLD = 8; // of the likeliest tokens

/**
 * @param {Float32Array} logits changed: those of forbidden ids become minus infinity
 * @param {Iterable<number>} forbidden
 * @param {Sampling} sampling
 * @param {() => number} random the next number in [0, 1)
 * @returns {Choice}
 */
export function choose(logits, forbidden, sampling, random) {
  for (const id of forbidden) logits[id] = Number.isNaN(logits[id]) ? NaN : -Infinity;
  let best = 0;
  for (let id = 1; id < logits.length; id++) if (logits[id] > logits[best]) best = id;
  const most = logits[best];
  let total = 0;
  for (let id = 0; id < logits.length; id++) total += Math.exp(logits[id] - most);
  if (!Number.isFinite(most) || !Number.isFinite(total)) throw new Error("the model's numbers are not finite");
  const id = sampling.temperature > 0 ? drawn(logits, most, sampling, random()) : best;
  /** @param {number} id */
  const p = (id) => Math.exp(logits[id] - most) / total;
  const likely = largest(logits, TOLD);
  return { id, p: p(id), likely: likely.filter((id) => logits[id] > -Infinity).map((id) => [id, p(id)]) };
}

/**
 * @param {Float32Array} values
 * @param {number} most of them
 * @param {Sampling} sampling
 * @param {number} uniform the place on the cumulative distribution
 */
function drawn(values, most, { temperature, topK, topP }, uniform) {
  /** @param {number} id */
  const weight = (id) => Math.exp((values[id] - most) / temperature);
  const some = topK > 0 && topK < values.length;
  let ids = some ? largest(values, topK) : Array.from(values.keys());
  if (topP < 1) {
    if (!some) ids.sort((a, b) => values[b] - values[a] || a - b);
    const need = topP * ids.reduce((sum, id) => sum + weight(id), 0);
    let sum = 0, kept = 0;
    while (kept < ids.length && (!kept || sum < need)) sum += weight(ids[kept++]);
    ids = ids.slice(0, kept);
  }
  ids = ids.filter((id) => weight(id) > 0).sort((a, b) => a - b);
  const total = ids.reduce((sum, id) => sum + weight(id), 0);
  const place = Math.min(uniform * total, total * (1 - 2 ** -53)); // below the total, so that it falls on a token
  let sum = 0;
  return ids.find((id) => (sum += weight(id)) > place) ?? ids[ids.length - 1];
}

/** The ids of the `count` largest values, largest first; among equals, the smaller ids.
 * @param {Float32Array} values
 * @param {number} count
 */
function largest(values, count) {
  /** @type {number[]} */
  const ids = [];
  for (let id = 0; id < values.length; id++) {
    if (ids.length === count && !(values[id] > values[ids[count - 1]])) continue;
    let low = 0;
    for (let high = ids.length; low < high; ) {
      const middle = (low + high) >> 1;
      if (values[ids[middle]] >= values[id]) low = middle + 1;
      else high = middle;
    }
    ids.splice(low, 0, id);
    if (ids.length > count) ids.pop();
  }
  return ids;
}
