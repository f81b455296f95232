// Cuts text into chunks, each of which is encoded by itself: csrc/split.hpp once more. What is a letter, a number or
// white space comes with the file, since browsers know other versions of Unicode.

const LETTER = 1, NUMBER = 2, SPACE = 3, NEWLINE = 4; // 0: all others
const NEWLINES = [10, 13];
const BLANK = 32, APOSTROPHE = 39;

/**
 * @param {Uint32Array} ranges first code point, last code point and class in turn
 * @param {number} mostDigits of one chunk
 */
export function createSplitter(ranges, mostDigits) {
  const classes = new Uint8Array(0x110000);
  for (let i = 0; i < ranges.length; i += 3) classes.fill(ranges[i + 2], ranges[i], ranges[i + 1] + 1);
  for (const newline of NEWLINES) classes[newline] = NEWLINE;

  /** Calls emit(start, end) for each chunk of valid UTF-8 in turn.
   * @param {Uint8Array} bytes
   * @param {(start: number, end: number) => void} emit
   */
  return function split(bytes, emit) {
    const end = bytes.length;
    for (let start = 0; start < end; ) {
      const after = chunkEnd(start);
      emit(start, after);
      start = after;
    }

    /** @param {number} p */
    function sizeAt(p) {
      const first = bytes[p];
      return first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
    }

    /** @param {number} p */
    function kindAt(p) {
      const first = bytes[p];
      if (first < 0x80) return classes[first];
      if (first < 0xe0) return classes[((first & 0x1f) << 6) | (bytes[p + 1] & 0x3f)];
      const middle = ((bytes[p + 1] & 0x3f) << 6) | (bytes[p + 2] & 0x3f);
      if (first < 0xf0) return classes[((first & 0x0f) << 12) | middle];
      return classes[((first & 0x07) << 18) | (middle << 6) | (bytes[p + 3] & 0x3f)];
    }

    /** The end of the characters of one class from p on.
     * @param {number} p
     * @param {number} kind
     * @param {number} most
     */
    function run(p, kind, most = Infinity) {
      for (let count = 0; p < end && count < most && kindAt(p) === kind; count++) p += sizeAt(p);
      return p;
    }

    /** @param {number} p */
    function symbols(p) {
      return run(run(p, 0), NEWLINE);
    }

    /** @param {number} start */
    function chunkEnd(start) {
      const kind = kindAt(start), second = start + sizeAt(start), next = second < end ? kindAt(second) : -1;
      if (kind === LETTER) return run(second, LETTER);
      if (kind === NUMBER) return run(second, NUMBER, mostDigits - 1);
      if (kind === NEWLINE) return whiteSpace(start);
      const contracted = bytes[start] === APOSTROPHE ? contraction(second) : 0;
      if (contracted) return second + contracted;
      if (next === LETTER) return run(second, LETTER);
      if (kind !== SPACE) return symbols(second);
      return next === 0 && bytes[start] === BLANK ? symbols(second) : whiteSpace(start);
    }

    /** Bytes after an apostrophe that make a contraction with it. U+017F is an s in lower case, too.
     * @param {number} p
     */
    function contraction(p) {
      const [a, b] = [p, p + 1].map((at) => (at < end && bytes[at] < 0x80 ? String.fromCharCode(bytes[at] | 32) : ""));
      if (a && "sdmt".includes(a)) return 1;
      if (bytes[p] === 0xc5 && bytes[p + 1] === 0xbf) return 2;
      return ["ll", "ve", "re"].includes(a + b) ? 2 : 0;
    }

    /** Up to the run's last newline; without one, the whole run, less its last character if another one follows.
     * @param {number} start
     */
    function whiteSpace(start) {
      let p = start, last = start, afterNewline = 0;
      for (; p < end; p += sizeAt(p)) {
        const kind = kindAt(p);
        if (kind !== SPACE && kind !== NEWLINE) break;
        last = p;
        if (kind === NEWLINE) afterNewline = p + 1;
      }
      if (afterNewline) return afterNewline;
      return p === end || last === start ? p : last;
    }
  };
}
