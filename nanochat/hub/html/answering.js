// One question, answered token by token.

import { createGeneration, createGrammar, withoutOpenCall } from "./generation.js";
import { createRandom } from "./random.js";
import { fitConversation, fitIds, mistakeIn } from "./rendering.js";
import { choose } from "./sampling.js";

/**
 * @typedef {import("./protocol.js").Ask} Ask
 * @typedef {import("./protocol.js").End} End
 * @typedef {import("./protocol.js").Token} Token
 * @typedef {import("./loading.js").Loaded} Loaded
 */

const EVERY = 0.015; // seconds between two messages with tokens: a small model is faster than a page can show

/** Answers, and says `start`, `tokens` and `end` on the way. `pause` lets a message in, so that `stopped` may change.
 * @param {Loaded} loaded
 * @param {Ask} ask
 * @param {(message: import("./protocol.js").FromWorker) => void} say
 * @param {() => Promise<void>} pause
 * @param {() => boolean} stopped
 */
export async function answer({ header, model, tokenizer }, ask, say, pause, stopped) {
  const began = performance.now(), { id } = ask;
  /** @type {End} */
  const end = { finish: "failed", error: null, tokens: 0, seconds: 0, first: null };
  const seconds = () => (performance.now() - began) / 1000;
  try {
    const grammar = createGrammar(tokenizer, model.sizes.vocab), window = model.sizes.window;
    const { sampling, mostTokens, seed } = chosen(header, ask);
    const begun = withoutOpenCall(grammar, ask.begun ?? []);
    const { ids, leftOut, cut } = promptOf(tokenizer, ask, window, mostTokens, begun.length);
    const sequence = [...ids, ...begun];
    const outside = sequence.find((id) => !Number.isInteger(id) || id < 0 || id >= tokenizer.size);
    if (!ids.length || outside !== undefined) throw new Error("the prompt holds ids that are no tokens");
    const open = !begun.length && ask.mode === "chat" && ask.messages?.[ask.messages.length - 1]?.role === "assistant";
    // Whoever goes on with an answer whose question does not fit would go on with another one.
    const room = Math.min(mostTokens, open && cut ? 0 : window - sequence.length);
    const counts = { prompt_tokens: ids.length, left_out: leftOut, cut, begun: begun.length };
    say({ type: "start", id, start: { id, model: header.name, chat: ask.mode === "chat", window, seed, ...counts } });

    /** @type {Token[]} */
    const shown = [];
    /** @type {import("./sampling.js").Choice | null} */
    let choice = null;
    const generation = createGeneration(tokenizer, grammar, sequence, room, ([id, text, kind], chosen) => {
      const likely = chosen ? choice?.likely ?? [] : [];
      shown.push([id, text, kind, chosen ? choice?.p ?? null : null, likely.map(([id, p]) => [id, tokenizer.textOf(id), p])]);
    });
    const random = createRandom(seed);
    let tell = 0;
    if (room <= 0) end.finish = "window";
    for (let place = model.keep(sequence); room > 0; await pause()) {
      if (stopped()) {
        end.finish = "stopped";
        end.tokens += shown.length;
        say({ type: "tokens", id, tokens: shown.splice(0) });
        break;
      }
      model.step(sequence[place++]);
      if (place < sequence.length) continue;
      choice = choose(model.logits(), generation.forbidden(), sampling, random);
      generation.push(choice.id);
      end.first ??= seconds();
      const finish = generation.finish();
      if (shown.length && (finish || seconds() >= tell)) {
        end.tokens += shown.length;
        tell = seconds() + EVERY;
        say({ type: "tokens", id, tokens: shown.splice(0) });
      }
      if (finish) {
        end.finish = finish === "length" && room < mostTokens ? "window" : finish;
        break;
      }
    }
  } catch (error) {
    end.finish = "failed";
    end.error = error instanceof Error ? error.message : String(error);
  }
  say({ type: "end", id, end: { ...end, seconds: seconds() } });
}

/** What the model reads before its answer: the same whether that was begun or not, unless that leaves no room. The last
 * message is never cut for what was begun.
 * @param {import("./tokenizer.js").Tokenizer} tokenizer
 * @param {Ask} ask
 * @param {number} window
 * @param {number} mostTokens
 * @param {number} begun how many ids of the answer there are
 */
function promptOf(tokenizer, ask, window, mostTokens, begun) {
  const fitted = fittedTo(tokenizer, ask, window, mostTokens);
  if (!begun || fitted.ids.length + begun < window || window <= begun) return fitted;
  const shorter = fittedTo(tokenizer, ask, window - begun, mostTokens);
  return shorter.cut ? fitted : shorter;
}

/**
 * @param {import("./tokenizer.js").Tokenizer} tokenizer
 * @param {Ask} ask
 * @param {number} window
 * @param {number} mostTokens
 */
function fittedTo(tokenizer, ask, window, mostTokens) {
  if (ask.mode === "chat" && !ask.ids) {
    /** @type {import("./rendering.js").Message[]} */
    const system = ask.system ? [{ role: "system", content: ask.system }] : [];
    const messages = [...system, ...(ask.messages ?? [])], mistake = mistakeIn(messages);
    if (mistake) throw new Error(mistake);
    return fitConversation(tokenizer, messages, window, mostTokens);
  }
  const whole = ask.ids ?? [tokenizer.special("<|bos|>"), ...tokenizer.encode(ask.text ?? "")];
  const ids = fitIds(tokenizer, whole, window, mostTokens);
  return { ids, leftOut: 0, cut: whole.length - ids.length };
}

/** The settings with the file's own where none are given.
 * @param {import("./protocol.js").Header} header
 * @param {Ask} ask
 */
function chosen({ defaults }, { settings = {} }) {
  /**
   * @param {"temperature" | "top_k" | "top_p" | "max_tokens" | "seed"} name
   * @param {(value: number) => boolean} fits
   */
  function setting(name, fits) {
    const value = settings[name] ?? defaults[name] ?? Math.floor(Math.random() * 2 ** 31); // only a seed has no default
    if (!fits(value)) throw new Error(`${name} cannot be ${value}`);
    return value;
  }
  const { isSafeInteger: whole } = Number;
  const sampling = {
    temperature: setting("temperature", (t) => t >= 0 && t < Infinity),
    topK: setting("top_k", (k) => whole(k) && k >= 0),
    topP: setting("top_p", (p) => p >= 0 && p <= 1),
  };
  return { sampling, mostTokens: setting("max_tokens", (n) => whole(n) && n >= 1), seed: setting("seed", whole) };
}
