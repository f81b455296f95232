// Random numbers of a sample: those that nanochat.inference.sampling.generator gives for the same seed.

const MASK = (1n << 64n) - 1n;
const START = [
  0x6a09e667f3bcc908n, 0xbb67ae8584caa73bn, 0x3c6ef372fe94f82bn, 0xa54ff53a5f1d36f1n,
  0x510e527fade682d1n, 0x9b05688c2b3e6c1fn, 0x1f83d9abfb41bd6bn, 0x5be0cd19137e2179n,
];
// The order of a message's sixteen words in each of the twelve rounds.
const ORDER = [
  "0123456789abcdef", "ea489fd61c02b753", "b8c052fdae367194", "7931dcbe265a40f8", "905724afe1bc683d",
  "2c6a0b834d75fe19", "c51fed4a0763928b", "db7ec13950f4862a", "6fe9b308c2d714a5", "a2847615fb9e3cd0",
];
const MIXED = ["048c", "159d", "26ae", "37bf", "05af", "16bc", "278d", "349e"].map(digits);

/** @param {string} text */
function digits(text) {
  return Array.from(text, (digit) => parseInt(digit, 16));
}

/** The last four of the eight bytes of BLAKE2b (RFC 7693) of at most 128 bytes, as a number.
 * @param {Uint8Array} message
 */
function hash(message) {
  const padded = new Uint8Array(128);
  padded.set(message);
  const view = new DataView(padded.buffer);
  const words = Array.from({ length: 16 }, (_, i) => view.getBigUint64(8 * i, true));
  const first = START[0] ^ 0x01010008n; // eight bytes, no key
  const v = [first, ...START.slice(1), ...START];
  v[12] ^= BigInt(message.length);
  v[14] ^= MASK;
  /** @type {(x: bigint, by: bigint) => bigint} */
  const turned = (x, by) => (x >> by) | ((x << (64n - by)) & MASK);
  for (let round = 0; round < 12; round++) {
    const order = digits(ORDER[round % 10]);
    MIXED.forEach(([a, b, c, d], place) => {
      for (const [word, one, two] of /** @type {const} */ ([[0, 32n, 24n], [1, 16n, 63n]])) {
        v[a] = (v[a] + v[b] + words[order[2 * place + word]]) & MASK;
        v[d] = turned(v[d] ^ v[a], one);
        v[c] = (v[c] + v[d]) & MASK;
        v[b] = turned(v[b] ^ v[c], two);
      }
    });
  }
  const digest = new DataView(new ArrayBuffer(8));
  digest.setBigUint64(0, first ^ v[0] ^ v[8], true);
  return digest.getUint32(4);
}

/** A function that gives the next number in [0, 1): a Mersenne Twister's, as torch makes of it.
 * @param {number} seed a whole number
 */
export function createRandom(seed) {
  const state = new Uint32Array(624);
  state[0] = hash(new TextEncoder().encode(`${seed}:0`));
  for (let i = 1; i < 624; i++) state[i] = Math.imul(1812433253, state[i - 1] ^ (state[i - 1] >>> 30)) + i;
  let place = 624;
  return () => {
    if (place === 624) {
      for (let i = 0; i < 624; i++) {
        const y = (state[i] & 0x80000000) | (state[(i + 1) % 624] & 0x7fffffff);
        state[i] = state[(i + 397) % 624] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
      }
      place = 0;
    }
    let y = state[place++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    y ^= y >>> 18;
    return (y & 0xffffff) / 2 ** 24;
  };
}
