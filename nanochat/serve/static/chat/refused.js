// An answer that was refused, and the time until it is asked for again.

/** Who was asked said no. `after`: seconds until asking again makes sense, null: it would be no use. */
export class Refused extends Error {
  /**
   * @param {number} status
   * @param {string} detail
   * @param {number | null} after
   */
  constructor(status, detail, after) {
    super(detail);
    this.status = status;
    this.after = after;
  }
}

/**
 * Until the time is over or the browser is online again. When `signal` stops it, it fails; when `early` does, it is over.
 * @param {number} ms
 * @param {AbortSignal} signal
 * @param {AbortSignal} [early]
 * @returns {Promise<void>}
 */
export function pause(ms, signal, early) {
  return new Promise((resolve, reject) => {
    const over = () => {
      clearTimeout(timer);
      removeEventListener("online", over);
      for (const one of [signal, early]) one?.removeEventListener("abort", over);
      if (signal.aborted) reject(signal.reason);
      else resolve();
    };
    const timer = setTimeout(over, ms);
    addEventListener("online", over);
    for (const one of [signal, early]) one?.addEventListener("abort", over);
    if (signal.aborted) over();
  });
}
