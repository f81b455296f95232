// The page of an exported file: the chat page's own modules, and a worker that answers where there is a server else.

import { createActions } from "../../serve/static/chat/actions.js";
import { createCards } from "../../serve/static/chat/card.js";
import { nameOf, sizeOf } from "../../serve/static/chat/checkpoints.js";
import { createComposer } from "../../serve/static/chat/composer.js";
import { element, place } from "../../serve/static/chat/dom.js";
import { createFigures } from "../../serve/static/chat/figures.js";
import { createFocus } from "../../serve/static/chat/focus.js";
import { createKeys } from "../../serve/static/chat/keys.js";
import { wireLooking } from "../../serve/static/chat/look/wiring.js";
import { createMessages } from "../../serve/static/chat/messages.js";
import { createPanel } from "../../serve/static/chat/panel.js";
import { createPreferences } from "../../serve/static/chat/preferences.js";
import { createRunning } from "../../serve/static/chat/running.js";
import { createScrolling } from "../../serve/static/chat/scrolling.js";
import { createSettings } from "../../serve/static/chat/settings.js";
import { FIRST, modeOf, runningHere } from "../../serve/static/chat/state.js";
import { path } from "../../serve/static/chat/tree.js";
import { createWelcome } from "../../serve/static/chat/welcome.js";
import { createWriting } from "../../serve/static/chat/writing.js";
import { createStore } from "../../serve/static/store.js";
import { createAnswers } from "./answers.js";
import { createBanner } from "./banner.js";
import { blockOf, taken } from "./blocks.js";
import { connect } from "./connection.js";
import { createAskLook } from "./look.js";
import { createTalks } from "./talks.js";

/** @typedef {import("../../serve/static/chat/state.js").State} State */

// What the modules above use, and came last to browsers.
for (const [name, there] of Object.entries({
  Worker: globalThis.Worker,
  DecompressionStream: globalThis.DecompressionStream,
  groupBy: Map.groupBy,
  toWellFormed: String.prototype.toWellFormed,
  checkVisibility: Element.prototype.checkVisibility,
  popover: HTMLElement.prototype.showPopover,
})) {
  if (!there) throw new Error(`it has no ${name}`);
}

// What the page is made from leaves it, so that a browser that saves the open page ("complete") saves it without the model.
if (!document.getElementById("header")) {
  const words = "A browser saved this page while it was open, without the model: there is only what was said. Open the file itself to go on.";
  place("banner").replaceChildren(element("p", "note bad", words));
  place("input").setAttribute("disabled", "");
  throw new Error("a copy without the model");
}

const ABOUT =
  "A small language model answers, on this device and without a network. It can be wrong, and it knows only what it has read.";
const header = /** @type {import("./protocol.js").Header} */ (JSON.parse(taken("header")));
const [stage, tag, step] = header.name.split("/");
const model = { stage, tag, step: Number(step), parameters: header.card.parameters ?? 0 };
const defaults = Object.fromEntries(Object.entries(header.defaults).filter(([, value]) => value !== null));
/** @type {import("../../serve/static/chat/state.js").Server} */
const server = { phase: "ready", model, defaults };
const store = createStore({ ...FIRST, server });
const showBanner = createBanner(place("banner"), () => store.set({ notice: "" }));
/** @type {{share: number | null, problem: string}} */
let standing = { share: 0, problem: "" };

/** @param {Partial<typeof standing>} change */
function stand(change) {
  standing = { ...standing, ...change };
  showBanner({ ...standing, notice: store.get().notice });
}

const script = taken("worker");
const answers = createAnswers((hear) => connect(script, header, blockOf, hear), {
  progress: (block) => stand({ share: block / header.blocks }),
  ready: () => stand({ share: null }),
  broken(problem) {
    stand({ problem });
    store.set({ server: { ...server, phase: "gone" } });
  },
});
const talks = createTalks(store);
const running = createRunning(store, answers, { now: async (c) => talks.keep(c), soon: talks.keep }, () => {}, () => {});
const actions = createActions(store, running, async (c) => talks.keep(c));
/** @type {Map<string, string>} */
const drafts = new Map();
const writing = createWriting(
  store,
  { draftOf: (id) => drafts.get(id) ?? "", keepDraft: (id, text) => void drafts.set(id, text) },
  answers.counted,
);
const look = wireLooking(
  /** @type {HTMLDialogElement} */ (place("look")), store, actions.goOnFrom, createAskLook(header, answers.texts), null,
);

// ---- views ----------------------------------------------------------------------------------------------------

const nothing = () => {}; // no server is there that would keep marks
const showMessages = createMessages(place("messages"), {
  ...actions, rate: nothing, correct: nothing, takeBack: nothing, look: (id) => void look.look(id),
});
const showWelcome = createWelcome(place("welcome"), send, ABOUT);
const panel = createPanel(place("panel"), place("panel-open"), (open) => store.set({ panel: open }));
const showFigures = createFigures(panel.figures);
createCards(panel.cards)([{ id: header.name, card: header.card, problem: "" }]);
const composer = createComposer({ send, stop: actions.stop, draft: writing.changed, editLast: actions.editLast });
const focus = createFocus(composer);
const scrolling = createScrolling(place("scroller"), place("messages"));
const preferences = createPreferences(store, talks.keep);
const settingsDialog = /** @type {HTMLDialogElement} */ (place("settings"));
const showSettings = createSettings(settingsDialog, place("settings-open"), preferences).show;
createKeys(/** @type {HTMLDialogElement} */ (place("keys")), place("keys-open"), { stop: actions.stop, newChat: talks.newChat });
place("new-chat").addEventListener("click", talks.newChat);
place("model").textContent = [nameOf(header.name), sizeOf(model.parameters)].filter(Boolean).join(", ");

store.subscribe((state, before) => {
  const changed = (/** @type {(keyof State)[]} */ ...names) => names.some((name) => state[name] !== before[name]);
  const conversation = state.open[state.current];
  if (!conversation) return;
  const empty = conversation.leaf === null;
  const mode = empty ? modeOf(state) : conversation.mode;
  const grown = conversation !== before.open[before.current]; // or another one is shown
  if (grown || changed("running", "editing")) {
    const { running, editing } = state;
    const still = { longest: defaults.max_tokens ?? undefined, answers: header.name, pairs: false, marks: false, marked: null };
    focus.keep(() => showMessages({ conversation, running, editing, ...still }));
    const newest = path(conversation).findLast((node) => node.role === "assistant");
    showFigures(newest, newest !== undefined && newest.id in running);
  }
  if (grown) showWelcome(empty, mode);
  if (grown || changed("running", "server", "counted")) {
    const away = state.server.phase === "gone";
    composer.show({ busy: runningHere(state).length > 0, away, mode, begun: !empty, counted: state.counted });
  }
  if (changed("current")) {
    writing.settle();
    composer.fill(writing.draft());
    focus.toComposer();
  }
  if (grown || changed("settings", "system", "theme", "presets")) {
    const { settings, system: systemForNew, theme, presets } = state;
    showSettings({ settings, defaults, system: mode === "chat" ? conversation.system : null, systemForNew, theme, presets });
  }
  if (changed("spoken")) place("spoken").textContent = state.spoken;
  if (changed("panel")) panel.show(state.panel, false);
  if (changed("notice")) stand({});
});

/** @param {string} text */
function send(text) {
  const sent = actions.send(text);
  if (sent) {
    writing.sent();
    scrolling.toEnd();
  }
  return sent;
}

// ---- start ----------------------------------------------------------------------------------------------------

panel.show(false, false);
place("unable").remove();
place("page").hidden = false;
talks.start();
stand({});
