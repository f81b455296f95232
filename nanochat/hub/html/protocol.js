// What the page and the worker with the model say to each other.

/**
 * @typedef {import("./generation.js").Kind} Kind
 * @typedef {import("./rendering.js").Message} Message
 * @typedef {{temperature?: number | null, top_k?: number | null, top_p?: number | null, max_tokens?: number | null, seed?: number | null}} Settings
 *   what is absent or null is as the file says
 * @typedef {{
 *   version: 1, name: string, chat: boolean, sizes: import("./model.js").Sizes,
 *   tokenizer: import("./tokenizer.js").TokenizerFacts, bytes: number, blocks: number,
 *   places: Record<string, import("./weights.js").Place>, defaults: Required<Settings>,
 *   card: import("../../serve/static/chat/card.js").Card
 * }} Header
 *   bytes: of all tensors; blocks: pieces that they come in
 * @typedef {{
 *   id: string, mode: "chat" | "text", system?: string, messages?: Message[], text?: string, ids?: number[],
 *   begun?: number[], settings?: Settings
 * }} Ask
 *   text: what is continued in the mode "text"; ids: the whole prompt instead; begun: ids that the answer begins with
 * @typedef {{type: "load", header: Header} | {type: "block", text: string} | {type: "ask", ask: Ask}
 *   | {type: "stop", id: string} | {type: "count", id: string, text: string} | {type: "texts", id: string, ids: number[]}} ToWorker
 * @typedef {[id: number, text: string, kind: Kind | "special", p: number | null, likely: [id: number, text: string, p: number][]]} Token
 *   p: the model's own probability, null for what a tool said; likely: what it could have been
 * @typedef {{
 *   id: string, model: string, chat: boolean, prompt_tokens: number, window: number, left_out: number, cut: number,
 *   begun: number, seed: number
 * }} Start
 * @typedef {"stop" | "length" | "window" | "stopped" | "failed"} Finish
 * @typedef {{finish: Finish, error: string | null, tokens: number, seconds: number, first: number | null}} End
 * @typedef {{type: "wanted", block: number} | {type: "ready", seconds: number} | {type: "broken", error: string, file: boolean}
 *   | {type: "start", id: string, start: Start} | {type: "tokens", id: string, tokens: Token[]}
 *   | {type: "end", id: string, end: End} | {type: "count", id: string, tokens: number, window: number}
 *   | {type: "texts", id: string, texts: string[]}} FromWorker
 *   broken: file: the file is at fault, not the browser; texts: of ids that follow each other
 */

export const VERSION = 1;
