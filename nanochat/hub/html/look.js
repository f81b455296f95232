// What is seen inside an answer of this file: each token's probability, and what could have stood in its place. The
// worker told that with the tokens.

/**
 * @param {import("./protocol.js").Header} header
 * @param {(ids: number[]) => Promise<string[]>} textsOf
 * @returns {import("../../serve/static/chat/look/looking.js").AskLook}
 */
export function createAskLook({ places }, textsOf) {
  const [, , special_from] = places["tokens.lengths"]; // those that were learnt come first
  return async ({ ids }, _, tokens) => {
    const texts = await textsOf(ids);
    const seen = tokens.map(([id, , , probability, likely = []], place) => ({
      id,
      text: texts[place],
      special: id >= special_from,
      probability,
      alternatives: likely.map(([id, text, probability]) => ({ id, text, probability })),
    }));
    return { offset: 0, special_from, tokens: seen, next: [], chosen: { token: -1, id: null, seen_from: 0, layers: [] } };
  };
}
