// The numbers in the file: text of seven bits a character, which holds compressed bytes, which hold tensors.

/**
 * @typedef {[type: "i8" | "u8" | "f32" | "u32", start: number, length: number]} Place start: in bytes; length: in numbers
 * @typedef {{rows: Int8Array, scales: Float32Array}} Matrix
 * @typedef {{read: (row: number, into: Float32Array) => void}} Table
 * @typedef {ReturnType<typeof createTensors>} Tensors
 */

/** Of each character the lower seven bits count: those that a page cannot hold are written as another one.
 * @param {string} text
 */
export function bytesOf(text) {
  const bytes = new Uint8Array(Math.floor((text.length * 7) / 8));
  for (let i = 0, at = 0, bits = 0, held = 0; i < text.length; i++) {
    held = ((held << 7) | (text.charCodeAt(i) & 127)) & 0x3fff;
    bits += 7;
    if (bits >= 8) bytes[at++] = held >> (bits -= 8);
  }
  return bytes;
}

/** @param {Uint8Array<ArrayBuffer>} bytes whose checksum is proven meanwhile */
export async function inflated(bytes) {
  const stream = /** @type {ReadableStream} */ (new Response(bytes).body).pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/**
 * @param {ArrayBuffer} buffer
 * @param {Record<string, Place>} places by name
 */
export function createTensors(buffer, places) {
  /** @param {string} name */
  function found(name) {
    const place = places[name];
    if (!place) throw new Error(`the file lacks ${name}`);
    return place;
  }
  /** @param {string} name */
  function numbers(name) {
    const [, start, length] = found(name);
    return new Float32Array(buffer, start, length);
  }
  /** @param {string} name */
  function signed(name) {
    const [, start, length] = found(name);
    return new Int8Array(buffer, start, length);
  }
  /** @param {string} name */
  function bytes(name) {
    const [, start, length] = found(name);
    return new Uint8Array(buffer, start, length);
  }
  return {
    numbers,
    bytes,
    /** @param {string} name */
    has: (name) => name in places,
    /** @param {string} name */
    whole(name) {
      const [, start, length] = found(name);
      return new Uint32Array(buffer, start, length);
    },
    /** @param {string} name @returns {Matrix} */
    matrix: (name) => ({ rows: signed(name), scales: numbers(`${name}.scales`) }),
    /** A table whose rows are looked up: whole numbers, in eight bits or with a byte more, and a scale for each row.
     * @param {string} name @returns {Table}
     */
    table(name) {
      const upper = signed(name), scales = numbers(`${name}.scales`), width = upper.length / scales.length;
      const lower = `${name}.lower` in places ? bytes(`${name}.lower`) : null;
      return {
        read(row, into) {
          const at = row * width, scale = scales[row];
          for (let i = 0; i < width; i++) into[i] = (lower ? upper[at + i] * 256 + lower[at + i] : upper[at + i]) * scale;
        },
      };
    },
  };
}
