// The blocks of the file become the model and its tokenizer.

import { createModel, scratch } from "./model.js";
import { createArena } from "./product.js";
import { compiledProduct } from "./product_wasm.js";
import { VERSION } from "./protocol.js";
import { createTokenizer } from "./tokenizer.js";
import { bytesOf, createTensors, inflated } from "./weights.js";

/**
 * @typedef {import("./protocol.js").Header} Header
 * @typedef {{header: Header, model: import("./model.js").Model, tokenizer: import("./tokenizer.js").Tokenizer}} Loaded
 */

/** The file is at fault, not the browser. */
export class Damaged extends Error {}

/**
 * @param {Header} header
 * @param {WebAssembly.Module | null} [compiled] null: the slower product
 */
export function createLoading(header, compiled = compiledProduct()) {
  if (header.version !== VERSION) throw new Damaged("it is of another version of nanochat than its own script");
  const arena = createArena(header.bytes, scratch(header.sizes), compiled);
  const data = new Uint8Array(arena.buffer, 0, header.bytes);
  let filled = 0, blocks = 0;
  return {
    /** Takes the next block in, and says whether all are there.
     * @param {string} text
     */
    async take(text) {
      const piece = await inflated(bytesOf(text)).catch(() => {
        throw new Damaged("its numbers are not those that were written");
      });
      if (filled + piece.length > data.length) throw new Damaged("there is more in it than its beginning says");
      data.set(piece, filled);
      filled += piece.length;
      blocks++;
      if (blocks === header.blocks && filled !== data.length) throw new Damaged("a part of it is missing");
      return blocks === header.blocks;
    },
    /** @returns {Loaded} */
    finish() {
      const tensors = createTensors(arena.buffer, header.places);
      const [tokens, lengths, ranges] = [tensors.bytes("tokens"), tensors.whole("tokens.lengths"), tensors.whole("unicode")];
      const tokenizer = createTokenizer(header.tokenizer, tokens, lengths, ranges);
      return { header, tokenizer, model: createModel(header.sizes, tensors, arena) };
    },
  };
}
