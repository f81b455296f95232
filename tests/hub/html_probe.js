// The exported file's own modules, for tests to call in a real browser.

import { answer } from "../../nanochat/hub/html/answering.js";
import { calculate } from "../../nanochat/hub/html/calculator.js";
import { createLoading } from "../../nanochat/hub/html/loading.js";
import { createRandom } from "../../nanochat/hub/html/random.js";
import { fitConversation } from "../../nanochat/hub/html/rendering.js";
import { choose } from "../../nanochat/hub/html/sampling.js";

let loaded = null;

globalThis.probe = {
  calculate: (expressions) => expressions.map(calculate),
  randoms: (seed, count) => Array.from({ length: count }, createRandom(seed)),
  choose: (logits, sampling, uniforms) =>
    uniforms.map((uniform) => choose(Float32Array.from(logits), [], sampling, () => uniform)),
  async load(header, blocks) {
    const loading = createLoading(header);
    for (const block of blocks) await loading.take(block);
    loaded = loading.finish();
  },
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
  async answer(ask) {
    const said = [];
    await answer(loaded, { id: "1", mode: "chat", ...ask }, (message) => said.push(message), async () => {}, () => false);
    return said;
  },
};
