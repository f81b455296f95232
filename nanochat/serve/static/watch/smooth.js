// The mean of a curve's values so far, in which each counts for less the older it is.

/**
 * @param {(number | null)[]} values
 * @param {number} weight of what was before, 0 to 1; 0 leaves the values as they are
 * @returns {(number | null)[]}
 */
export function smooth(values, weight) {
  let total = 0;
  let seen = 0;
  return values.map((value) => {
    if (value === null) return null;
    total = weight * total + (1 - weight) * value;
    seen = weight * seen + (1 - weight);
    return total / seen;
  });
}
