// What the page knows, all of it, in one object. Only main.js makes a store of it.
//
// To add a view: 1. give it a root in index.html and its own module `createX(root, actions)`, which builds its DOM once
// and returns `show(...)`; 2. add here what it shows; 3. in main.js, create it with the actions it may take, and call its
// `show` where those fields changed (`changed("running", "open")`). What talks to the server or the database is an
// action (actions.js, running.js, server.js, conversations.js): it sets the store, and the views follow. A view never
// reads the store, and never fetches.

/**
 * @typedef {import("./tree.js").Conversation} Conversation
 * @typedef {import("./tree.js").Node} Node
 * @typedef {import("./tree.js").Settings} Settings
 * @typedef {import("./database.js").Summary} Summary
 */

/**
 * An answer on its way, by the id of its node in `State.running`.
 *
 * asking: not answered by the server yet. loading, waiting: as the server says (a model is loaded, others come first).
 * writing: tokens come. lost: the connection broke, it is being taken up again. busy, ending: refused since too many ask
 * or the server is ending, and asked again at `again` (ms).
 * @typedef {"asking" | "loading" | "waiting" | "writing" | "lost" | "busy" | "ending"} Phase
 * @typedef {{conversation: string, phase: Phase, again: number | null}} Running
 */

/**
 * What GET /page/models says of a checkpoint.
 * @typedef {{
 *   id: string, stage: string, tag: string, step: number, bytes: number | null, written: number | null, own: boolean,
 *   loaded: boolean, chat: boolean
 * }} Model
 *   written: in seconds since 1970. null: the server's own need not be on the disk
 */

/**
 * starting: not asked yet. ready. ending: it finishes what it has begun and takes nothing new. gone: it cannot be
 * reached. login: it wants the key.
 * @typedef {{
 *   phase: "starting" | "ready" | "ending" | "gone" | "login",
 *   model: {stage: string, tag: string, step: number, parameters: number} | null,
 *   defaults: Settings
 * }} Server
 */

/**
 * How much of what is being written the model would see; null: short, or not counted yet.
 * @typedef {{tokens: number, window: number} | {problem: string} | null} Counted
 */

/**
 * @typedef {{
 *   server: Server,
 *   models: Model[],
 *   picker: boolean,
 *   chosen: string | null,
 *   second: string | null,
 *   open: Record<string, Conversation>,
 *   current: string,
 *   running: Record<string, Running>,
 *   summaries: Summary[],
 *   found: string[] | null,
 *   storage: import("./database.js").Problem,
 *   settings: Settings,
 *   system: string,
 *   theme: string,
 *   presets: Record<string, {settings: Settings, system: string}>,
 *   editing: string | null,
 *   looking: import("./look/looking.js").Looking | null,
 *   marked: import("./marking.js").Marked | null,
 *   panel: boolean,
 *   cards: Record<string, {card: import("./card.js").Card | undefined, problem: string}>,
 *   counted: Counted,
 *   notice: string,
 *   spoken: string
 * }} State
 *
 * models: those that may be asked. picker: whether there is a choice. chosen: the model that answers, null for the
 *   server's own. second: another one that answers beside it (side by side), or null.
 * open: the conversation that is shown and those in which answers are on their way, by id. current: the one shown.
 * summaries: all that are kept, newest first. found: ids that a search found, null without a search.
 * storage: what keeps conversations from being kept.
 * settings: those that the person set; what is absent is the server's default. system: the system prompt that new
 *   conversations begin with.
 * editing: the node whose text is being edited. looking: the answer that is looked into.
 * marked: what the server said of the last mark of an answer. panel: figures and card are open.
 * cards: what is known of models, by id.
 * notice: one line above the messages about what just happened. spoken: what a screen reader is told.
 */

/** @type {State} */
export const FIRST = {
  server: { phase: "starting", model: null, defaults: {} },
  models: [],
  picker: false,
  chosen: null,
  second: null,
  open: {},
  current: "",
  running: {},
  summaries: [],
  found: null,
  storage: "",
  settings: {},
  system: "",
  theme: "",
  presets: {},
  editing: null,
  looking: null,
  marked: null,
  panel: false,
  cards: {},
  counted: null,
  notice: "",
  spoken: "",
};

/**
 * What the server calls its own model; "" until it is known.
 * @param {State} state
 */
export const ownId = ({ server: { model } }) => (model ? `${model.stage}/${model.tag}/${model.step}` : "");

/**
 * Whether a model was trained to chat: the one that answers, or another. An unknown one is taken for one that was.
 * @param {State} state
 * @param {string | null} [id] null for the server's own
 */
export function canChat({ models, chosen, server }, id = chosen) {
  const model = models.find((one) => (id === null ? one.own : one.id === id));
  if (model) return model.chat;
  return id === null ? server.model?.stage !== "base" : !id.startsWith("base/");
}

/**
 * How the next conversation begins. Side by side it is a chat in any case, in which a base model goes on with the question.
 * @param {State} state
 * @returns {"chat" | "text"}
 */
export const modeOf = (state) => (state.second !== null || canChat(state) ? "chat" : "text");

/**
 * The answers on their way in the conversation that is shown.
 * @param {State} state
 */
export function runningHere({ running, current }) {
  return Object.keys(running).filter((node) => running[node].conversation === current);
}
