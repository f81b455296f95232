// From numbers to places on a chart, and the round numbers beside its axes.

/**
 * @typedef {{at: (value: number) => number, ticks: number[], low: number, high: number}} Scale
 */

/**
 * @param {number[]} values
 * @param {number} from the place of the least value
 * @param {number} to the place of the greatest
 * @param {boolean} log
 * @param {number} most ticks, about
 * @returns {Scale}
 */
export function makeScale(values, from, to, log, most) {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (log && value <= 0) continue;
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  if (low > high) [low, high] = log ? [1, 10] : [0, 1];
  if (high - low <= 1e-4 * Math.abs(high)) {
    // A flat line, but for rounding: it goes through the middle.
    const room = (Math.abs(high) || 1) / 10;
    [low, high] = log ? [low / 1.1, high * 1.1] : [low - room, high + room];
  }
  /** @param {number} value */
  const turn = (value) => (log ? Math.log10(value) : value);
  const [start, length] = [turn(low), turn(high) - turn(low)];
  return {
    at: (value) => from + ((turn(value) - start) / length) * (to - from),
    ticks: log && high / low > 5 ? logTicks(low, high) : evenTicks(low, high, most),
    low,
    high,
  };
}

/** @param {number} low @param {number} high @param {number} most */
function evenTicks(low, high, most) {
  const rough = (high - low) / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5].find((factor) => factor * power >= rough) ?? 10);
  const found = [];
  for (let n = Math.ceil(low / step); n * step <= high && found.length < 20; n++) found.push(n * step);
  return found;
}

/** @param {number} low @param {number} high */
function logTicks(low, high) {
  const found = [];
  const factors = high / low > 1000 ? [1] : [1, 2, 5];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high) && found.length < 20; power++) {
    for (const factor of factors) {
      const value = factor * 10 ** power;
      if (value >= low && value <= high) found.push(value);
    }
  }
  return found;
}
