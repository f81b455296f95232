// One answer in the making: its tokens and the tool calls inside it, as nanochat/inference/generation.py makes them.

import { calculate } from "./calculator.js";

/**
 * @typedef {import("./tokenizer.js").Tokenizer} Tokenizer
 * @typedef {"text" | "python" | "python_output"} Kind
 * @typedef {[id: number, text: string, kind: Kind | "special"]} Token
 * @typedef {ReturnType<typeof createGrammar>} Grammar
 */

/** Which special tokens an answer may hold where, and what each of them begins.
 * @param {Tokenizer} tokenizer
 * @param {number} vocabSize of the model, whose last rows may only fill up the matrix
 */
export function createGrammar(tokenizer, vocabSize) {
  const [pythonStart, pythonEnd, outputStart, outputEnd, assistantEnd, bos] = [
    "<|python_start|>", "<|python_end|>", "<|output_start|>", "<|output_end|>", "<|assistant_end|>", "<|bos|>",
  ].map(tokenizer.special);
  // A base model ends a document by beginning the next one.
  const stops = [assistantEnd, bos];
  /** @type {Map<number, Kind>} */
  const opens = new Map([
    [pythonStart, "python"], [pythonEnd, "text"], [outputStart, "python_output"], [outputEnd, "text"],
  ]);
  /** @param {number} allowed */
  const allBut = (allowed) => [
    ...tokenizer.specials.filter((id) => id !== allowed && !stops.includes(id)),
    ...Array.from({ length: vocabSize - tokenizer.size }, (_, place) => tokenizer.size + place),
  ];
  const outside = allBut(pythonStart);
  /** @type {Record<Kind, number[]>} */
  const forbidden = { text: outside, python: allBut(pythonEnd), python_output: outside };
  return { pythonStart, pythonEnd, outputStart, outputEnd, stops, opens, forbidden };
}

/** An answer's beginning without a tool call at its end that is not complete.
 * @param {Grammar} grammar
 * @param {number[]} ids
 */
export function withoutOpenCall(grammar, ids) {
  let call = -1, before = -1; // call: where the newest begins that has no result yet
  ids.forEach((id, place) => {
    if (id === grammar.pythonStart) call = place;
    // It had a result, or none, and the answer went on.
    else if (id === grammar.outputEnd || (before === grammar.pythonEnd && id !== grammar.outputStart)) call = -1;
    before = id;
  });
  return call < 0 ? ids : ids.slice(0, call);
}

/**
 * @param {Tokenizer} tokenizer
 * @param {Grammar} grammar
 * @param {number[]} sequence the prompt, to which the answer is added
 * @param {number} room how many tokens it may get
 * @param {(token: Token, chosen: boolean) => void} show
 */
export function createGeneration(tokenizer, grammar, sequence, room, show) {
  const end = sequence.length + room, utf8 = tokenizer.stream();
  /** @type {Kind} */
  let kind = "text";
  let code = "", stopped = false;
  const full = () => sequence.length >= end;

  /**
   * @param {number} id
   * @param {boolean} chosen
   */
  function ordinary(id, chosen) {
    const text = utf8.feed(id);
    sequence.push(id);
    code += text;
    show([id, text, kind], chosen);
  }

  /** A token that begins the next part.
   * @param {number} id
   * @param {Kind} next
   * @param {boolean} chosen
   */
  function special(id, next, chosen) {
    utf8.finish(); // bytes of a character that was never completed are dropped
    sequence.push(id);
    show([id, "", "special"], chosen);
    const said = code;
    kind = next;
    code = "";
    if (id === grammar.pythonEnd && !full()) addOutput(calculate(said));
  }

  /** What the tool says, as far as there is room.
   * @param {string | null} result
   */
  function addOutput(result) {
    if (result === null) return;
    special(grammar.outputStart, "python_output", false);
    for (const id of tokenizer.encode(result)) if (!full()) ordinary(id, false);
    if (!full()) special(grammar.outputEnd, "text", false);
  }

  return {
    forbidden: () => grammar.forbidden[kind],
    /** "" while more is to come. */
    finish: () => (stopped ? "stop" : full() ? "length" : ""),
    /** Takes in the chosen token.
     * @param {number} id
     */
    push(id) {
      const next = grammar.opens.get(id);
      if (grammar.stops.includes(id)) stopped = true;
      else if (next) special(id, next, true);
      else ordinary(id, true);
    },
  };
}
