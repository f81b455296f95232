// Numbers that change often, shown calmly.

const EVERY = 250; // ms between two changes on the screen

/**
 * Shows the newest values, at most four times a second.
 * @template T
 * @param {(values: T) => void} show
 */
export function calm(show) {
  let last = -EVERY;
  /** @type {number | undefined} */
  let timer;
  /** @type {T} */
  let newest;

  function now() {
    timer = undefined;
    last = performance.now();
    show(newest);
  }

  /** @param {T} values */
  return (values) => {
    newest = values;
    const wait = last + EVERY - performance.now();
    if (wait <= 0 && timer === undefined) now();
    else timer ??= window.setTimeout(now, Math.max(0, wait));
  };
}
