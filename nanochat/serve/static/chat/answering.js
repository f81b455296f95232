// One answer of the server, read as it is written. A connection that is lost is taken up again where it broke off.

import { Refused, pause } from "./refused.js";

/**
 * @typedef {import("./tree.js").Token} Token
 * @typedef {import("./tree.js").Start} Start
 * @typedef {import("./tree.js").End} End
 * @typedef {import("./tree.js").Message} Message
 * @typedef {import("./tree.js").Settings} Settings
 *
 * @typedef {{
 *   id: string, model: string | null, mode: "chat" | "text", system: string, messages: Message[], text: string,
 *   begun: number[], settings: Settings
 * }} Asked
 *
 * @typedef {{
 *   onState?: (state: "loading" | "waiting" | "lost") => void,
 *   onStart: (start: Start) => void,
 *   onTokens: (tokens: Token[]) => void,
 *   onEnd: (end: End) => void,
 *   signal: AbortSignal
 * }} Reader
 */

const PATIENCE = 60_000; // ms: as long as the server keeps an answer that nobody reads
const SILENCE = 45_000; // ms without a byte, while the server says something more often: the connection is dead
const PAUSES = [250, 500, 1000, 2000, 4000]; // ms between attempts; the last one repeats
const LONGEST = 16 << 20; // characters of one event
const MOST = 20_000; // tokens of one answer: a server allows 4096, and what tools say
const KINDS = ["text", "python", "python_output", "special"];
const FINISHES = ["stop", "length", "window", "stopped", "failed"];
const BROKE_OFF = "The answer broke off.";

/**
 * Ask, and read the answer to its end. Refused: it was not taken in. When `signal` stops it, that is an AbortError.
 * @param {Asked} request
 * @param {Reader} reader
 */
export const ask = (request, reader) => read(request.id, request, 0, reader);

/**
 * Read on in an answer that was asked for before, after its first `after` tokens.
 * @param {string} id
 * @param {number} after
 * @param {Reader} reader
 */
export const resume = (id, after, reader) => read(id, null, after, reader);

/**
 * Whether the server has stopped the answer (or did not have it any more).
 * @param {string} id
 */
export async function stop(id) {
  try {
    const { ok, status } = await fetch(`/page/answers/${id}`, { method: "DELETE", keepalive: true });
    return ok || status === 404;
  } catch {
    return false;
  }
}

/**
 * @param {string} id
 * @param {Asked | null} request
 * @param {number} after
 * @param {Reader} reader
 */
async function read(id, request, after, { onState, onStart, onTokens, onEnd, signal }) {
  let have = after;
  let begun = request === null; // whether the server is known to have had it
  let asking = request !== null;
  /** @type {Refused | null} */
  let taken = null; // as the server said when it was asked, and may have been for the second time
  let fails = 0;
  let until = 0;
  const handlers = {
    onState: (/** @type {"loading" | "waiting"} */ state) => onState?.(state),
    onStart(/** @type {Start} */ start) {
      begun = true;
      onStart(start);
    },
    onTokens(/** @type {Token[]} */ tokens) {
      have += tokens.length;
      if (have > MOST) throw new Refused(0, "The server did not come to an end.", null);
      fails = 0;
      onTokens(tokens);
    },
  };
  for (;;) {
    const attempt = new AbortController();
    const either = AbortSignal.any([signal, attempt.signal]);
    try {
      const response = await inTime(asking ? post(request, either) : get(id, have, either));
      if (response.ok) {
        asking = false;
        const end = await events(response, handlers);
        if (signal.aborted) throw signal.reason;
        if (end) return onEnd(end);
      } else if (asking && response.status === 409 && !taken) {
        taken = await refusal(response);
        asking = false;
        continue;
      } else if (!asking && response.status === 404) {
        if (begun || !request) return onEnd(brokenOff(BROKE_OFF));
        if (taken) throw taken;
        asking = true;
        continue;
      } else if (asking || response.status < 500) {
        throw await refusal(response);
      }
    } catch (error) {
      if (signal.aborted || error instanceof Refused) throw error;
    } finally {
      attempt.abort();
    }
    // Lost on the way, and a question perhaps with it: whether it arrived is seen from the answer being there.
    if (fails === 0) until = performance.now() + PATIENCE; // which no clock that is set changes
    if (performance.now() >= until) return onEnd(brokenOff(begun ? BROKE_OFF : "The server cannot be reached."));
    asking = false;
    onState?.("lost");
    await pause(PAUSES[Math.min(fails++, PAUSES.length - 1)], signal);
  }
}

/**
 * @param {string} error
 * @returns {End}
 */
const brokenOff = (error) => ({ finish: "failed", error, tokens: 0, seconds: 0, first: null });

/**
 * @param {Asked | null} request
 * @param {AbortSignal} signal
 */
const post = (request, signal) =>
  fetch("/page/answers", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(request),
    signal,
  });

/**
 * @param {string} id
 * @param {number} after
 * @param {AbortSignal} signal
 */
const get = (id, after, signal) => fetch(`/page/answers/${id}?after=${after}`, { signal });

/** @param {Response} response */
async function refusal(response) {
  const said = await response.json().catch(() => null);
  if (response.status === 401) return new Refused(401, "You are not logged in any more.", null);
  const detail = typeof said?.detail === "string" ? said.detail : `The server answered ${response.status}.`;
  const after = Number(response.headers.get("retry-after"));
  return new Refused(response.status, detail, after > 0 && after < 3600 ? after : null);
}

/**
 * The end that the server told, or null: the stream ended before. What is no event of ours is passed over.
 * @param {Response} response
 * @param {{
 *   onState: (state: "loading" | "waiting") => void, onStart: (start: Start) => void, onTokens: (tokens: Token[]) => void
 * }} handlers
 * @returns {Promise<End | null>}
 */
async function events(response, { onState, onStart, onTokens }) {
  if (!response.body || !response.headers.get("content-type")?.startsWith("text/event-stream")) return null;
  const chunks = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await inTime(chunks.read());
    if (done) return null;
    rest += value;
    const blocks = rest.split(/\r?\n\r?\n/);
    rest = blocks.pop() ?? "";
    if (rest.length > LONGEST) return null;
    for (const block of blocks) {
      const event = parsed(block);
      if (event.state === "loading" || event.state === "waiting") onState(event.state);
      if (event.start && typeof event.start === "object") onStart(startOf(event.start));
      if (Array.isArray(event.tokens) && event.tokens.length) onTokens(event.tokens.map(tokenOf));
      if (event.end && typeof event.end === "object") return endOf(event.end);
    }
  }
}

/**
 * @template T
 * @param {Promise<T>} reading
 * @returns {Promise<T>}
 */
function inTime(reading) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error("silence")), SILENCE);
    reading.then(resolve, reject).finally(() => clearTimeout(timer));
  });
}

/**
 * @param {string} block
 * @returns {Record<string, unknown>}
 */
function parsed(block) {
  const data = block.split(/\r?\n/).filter((line) => line.startsWith("data:")).map((line) => line.slice(5));
  try {
    const value = JSON.parse(data.join("\n"));
    return value && typeof value === "object" ? value : {};
  } catch {
    return {}; // a comment, or nothing of ours
  }
}

/**
 * One for one, so that the number of tokens stays what the server counts: what is none says nothing.
 * @param {unknown} value
 * @returns {Token}
 */
function tokenOf(value) {
  const [id, text, kind, p] = Array.isArray(value) ? value : [];
  const chance = typeof p === "number" && p >= 0 && p <= 1 ? p : null;
  const known = Number.isInteger(id) && id >= 0 && typeof text === "string" && KINDS.includes(kind);
  return known ? [id, text, kind, chance] : [0, "", "special", null];
}

/** @param {unknown} value */
const count = (value) => (typeof value === "number" && value >= 0 ? value : 0);

/**
 * @param {object} told
 * @returns {Start}
 */
function startOf(told) {
  const { id, model, chat, prompt_tokens, window, left_out, cut, begun, seed } = /** @type {Partial<Start>} */ (told);
  return {
    id: typeof id === "string" ? id : "",
    model: typeof model === "string" ? model : "",
    chat: chat !== false,
    prompt_tokens: count(prompt_tokens),
    window: count(window),
    left_out: count(left_out),
    cut: count(cut),
    begun: count(begun),
    seed: typeof seed === "number" ? seed : null,
  };
}

/**
 * @param {object} told
 * @returns {End}
 */
function endOf(told) {
  const { finish, error, tokens, seconds, first } = /** @type {Partial<End>} */ (told);
  return {
    finish: finish && FINISHES.includes(finish) ? finish : "failed",
    error: typeof error === "string" ? error : null,
    tokens: count(tokens),
    seconds: count(seconds),
    first: typeof first === "number" ? first : null,
  };
}
