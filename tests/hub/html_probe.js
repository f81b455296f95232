// The exported file's own modules, for tests to call in a real browser.

import { answer } from "../../nanochat/hub/html/answering.js";
import { calculate } from "../../nanochat/hub/html/calculator.js";
import { createGeneration, createGrammar } from "../../nanochat/hub/html/generation.js";
import { createLoading } from "../../nanochat/hub/html/loading.js";
import { compiledProduct } from "../../nanochat/hub/html/product_wasm.js";
import { createRandom } from "../../nanochat/hub/html/random.js";
import { fitConversation } from "../../nanochat/hub/html/rendering.js";
import { choose } from "../../nanochat/hub/html/sampling.js";
import { bytesOf } from "../../nanochat/hub/html/weights.js";

let loaded = null;

globalThis.probe = {
  calculate: (expressions) => expressions.map(calculate),
  randoms: (seed, count) => Array.from({ length: count }, createRandom(seed)),
  choose: (logits, sampling, uniforms) =>
    uniforms.map((uniform) => choose(Float32Array.from(logits), [], sampling, () => uniform)),
  compiles: () => compiledProduct() !== null,
  async load(header, blocks, plain) {
    const loading = plain ? createLoading(header, null) : createLoading(header);
    for (const block of blocks) await loading.take(block);
    loaded = loading.finish();
  },
  bytes: (text) => Array.from(bytesOf(text)),
  encode: (texts) => texts.map((text) => loaded.tokenizer.encode(text)),
  streamed(ids) {
    const stream = loaded.tokenizer.stream();
    return [...ids.map(stream.feed), stream.finish()];
  },
  fit: (messages, window, most) => fitConversation(loaded.tokenizer, messages, window, most).ids,
  logits(ids) {
    const { model } = loaded;
    return ids.slice(model.keep(ids)).map((id) => {
      model.step(id);
      return Array.from(model.logits());
    });
  },
  forbidden: (vocabSize) => createGrammar(loaded.tokenizer, vocabSize).forbidden,
  generate(prompt, room, chosen) {
    const tokens = [], sequence = [...prompt], grammar = createGrammar(loaded.tokenizer, loaded.model.sizes.vocab);
    const show = (token, said) => tokens.push([...token, said]);
    const generation = createGeneration(loaded.tokenizer, grammar, sequence, room, show);
    for (const id of chosen) if (!generation.finish()) generation.push(id);
    return { tokens, finish: generation.finish() || null, sequence };
  },
  async answer(ask) {
    const said = [];
    await answer(loaded, { id: "1", mode: "chat", ...ask }, (message) => said.push(message), async () => {}, () => false);
    return said;
  },
};
