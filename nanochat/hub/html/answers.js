// Who answers on this page: the worker that holds the model, instead of a server.

import { Refused } from "../../serve/static/chat/refused.js";

/**
 * @typedef {import("./protocol.js").FromWorker} FromWorker
 * @typedef {import("./protocol.js").ToWorker} ToWorker
 * @typedef {import("../../serve/static/chat/answering.js").Asked} Asked
 * @typedef {import("../../serve/static/chat/answering.js").Reader} Reader
 * @typedef {{reader: Reader, end: (end: import("./protocol.js").End) => void, fail: () => void}} Reading
 */

/**
 * @param {(hear: (message: FromWorker) => void) => (message: ToWorker) => void} open the line to the worker
 * @param {{progress: (block: number) => void, ready: () => void, broken: (words: string) => void}} told
 *   progress: so many blocks are unpacked
 */
export function createAnswers(open, told) {
  /** @type {Map<string, Reading>} */
  const readings = new Map();
  /** @type {Map<string, (message: FromWorker | null) => void>} what is not an answer, by its id; null: there is none */
  const replies = new Map();
  /** @type {Set<() => void>} who waits until the model is there */
  const waiting = new Set();
  let ready = false;
  let broken = "";
  let asked = 0;

  /** @param {FromWorker} message */
  function hear(message) {
    if (broken) return;
    if (message.type === "wanted") told.progress(message.block);
    else if (message.type === "ready") arrive();
    else if (message.type === "broken") breakOff(message);
    else if (message.type === "count" || message.type === "texts") reply(message.id, message);
    else take(message);
  }

  /** @param {Extract<FromWorker, {type: "start" | "tokens" | "end"}>} message */
  function take(message) {
    const reading = readings.get(message.id); // none: it was given up
    if (!reading) return;
    if (message.type === "start") reading.reader.onStart(message.start);
    else if (message.type === "tokens") reading.reader.onTokens(message.tokens);
    else reading.end(message.end);
  }

  function arrive() {
    ready = true;
    for (const go of waiting) go();
    told.ready();
  }

  /** @param {Extract<FromWorker, {type: "broken"}>} message */
  function breakOff({ error, file }) {
    const why = /[.!?]$/.test(error) ? error : `${error}.`;
    if (ready) broken = `The model broke off: ${why} Reload this page to go on: what was said here is gone then.`;
    else if (file) broken = `This file is damaged: ${why} Get it once more.`;
    else broken = `This browser cannot run the model: ${why} Try a current Firefox, Chrome, Edge or Safari.`;
    for (const go of waiting) go();
    for (const { fail } of readings.values()) fail();
    for (const id of replies.keys()) reply(id, null);
    told.broken(broken);
  }

  /**
   * @param {string} id
   * @param {FromWorker | null} message
   */
  function reply(id, message) {
    replies.get(id)?.(message);
    replies.delete(id);
  }

  /**
   * @param {(id: string) => ToWorker} message
   * @returns {Promise<FromWorker | null>} null: there is no model
   */
  const wanted = (message) =>
    new Promise((resolve) => {
      if (!ready || broken) return resolve(null);
      const id = `page-${++asked}`;
      replies.set(id, resolve);
      send(message(id));
    });

  /**
   * Until the model is there, or will never be.
   * @param {AbortSignal} signal
   */
  const arrived = (signal) =>
    new Promise((resolve, reject) => {
      const go = () => resolve(waiting.delete(go));
      if (ready || broken) return go();
      waiting.add(go);
      signal.addEventListener("abort", () => waiting.delete(go) && reject(signal.reason));
    });

  /**
   * @param {Asked} asked
   * @param {Reader} reader
   * @returns {Promise<void>}
   */
  const read = ({ model: _, ...ask }, reader) =>
    new Promise((resolve, reject) => {
      const { signal } = reader;
      const over = () => {
        readings.delete(ask.id);
        signal.removeEventListener("abort", leave);
      };
      const leave = () => {
        over();
        send({ type: "stop", id: ask.id });
        reject(signal.reason);
      };
      signal.addEventListener("abort", leave);
      readings.set(ask.id, {
        reader,
        end(end) {
          over();
          reader.onEnd(end);
          resolve();
        },
        fail() {
          over();
          reject(new Refused(0, broken, null));
        },
      });
      send({ type: "ask", ask });
    });

  const send = open(hear);

  return {
    /**
     * Asks, also before the model is there: it is answered then.
     * @param {Asked} asked
     * @param {Reader} reader
     */
    async ask(asked, reader) {
      if (!ready && !broken) reader.onState?.("loading");
      await arrived(reader.signal);
      if (broken) throw new Refused(0, broken, null);
      if (readings.size > 0) reader.onState?.("waiting");
      await read(asked, reader);
    },

    /** @param {string} id */
    stop: (id) => send({ type: "stop", id }),

    /**
     * @param {string} text
     * @returns {Promise<import("../../serve/static/chat/state.js").Counted>}
     */
    async counted(text) {
      const told = await wanted((id) => ({ type: "count", id, text }));
      return told?.type === "count" ? { tokens: told.tokens, window: told.window } : null;
    },

    /**
     * What each of these says after those before it: of special tokens, their names.
     * @param {number[]} ids
     */
    async texts(ids) {
      const told = await wanted((id) => ({ type: "texts", id, ids }));
      if (told?.type !== "texts") throw new Error("The model is not there.");
      return told.texts;
    },
  };
}
