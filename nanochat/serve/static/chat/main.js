// The chat page: makes the store, and wires what people do, what the server says and what is shown.

import { createActions } from "./actions.js";
import { ask, resume, stop } from "./answering.js";
import { createBanner } from "./banner.js";
import { createCards } from "./card.js";
import { createCatalog } from "./catalog.js";
import { sizeOf } from "./checkpoints.js";
import { rememberChoice, rememberedChoice } from "./choice.js";
import { createComposer } from "./composer.js";
import { createConversations } from "./conversations.js";
import { openDatabase } from "./database.js";
import { place } from "./dom.js";
import { draftOf, keepDraft } from "./drafts.js";
import { createFigures } from "./figures.js";
import { createFocus } from "./focus.js";
import { createKeys } from "./keys.js";
import { createMessages } from "./messages.js";
import { createMarking } from "./marking.js";
import { createModels } from "./models.js";
import { createPanel } from "./panel.js";
import { createRunning } from "./running.js";
import { createScrolling } from "./scrolling.js";
import { counted, watchServer } from "./server.js";
import { FIRST, modeOf, ownId, runningHere } from "./state.js";
import { stayOffline } from "./offline.js";
import { createPreferences } from "./preferences.js";
import { createSettings } from "./settings.js";
import { createSidebar } from "./sidebar.js";
import { createStore } from "../store.js";
import { path } from "./tree.js";
import { createWelcome } from "./welcome.js";
import { createWriting } from "./writing.js";

/** @typedef {import("./state.js").State} State */

const wide = matchMedia("(min-width: 60.01rem)"); // where the panel has room beside the conversation
const { panel: panelOpen, ...choice } = rememberedChoice();
const store = createStore({ ...FIRST, ...choice, panel: panelOpen && wide.matches });
const database = await openDatabase((id) => void conversations.heard(id));
const catalog = createCatalog(store);
const look = watchServer(store, catalog.look);
const running = createRunning(
  store,
  { ask, resume, stop },
  { now: (c) => conversations.keep(c), soon: (c) => conversations.keepSoon(c) },
  refused,
  look,
);
const conversations = createConversations(store, database, running);
const actions = createActions(store, running, conversations.keep);
const writing = createWriting(store, { draftOf, keepDraft }, counted);

/** @param {import("./refused.js").Refused} refusal */
function refused({ status }) {
  if (status === 401) store.set({ server: { ...store.get().server, phase: "login" } });
  if (status === 404) catalog.look(); // a model is not there any more, as the answer says
}

// ---- views ----------------------------------------------------------------------------------------------------

const showMessages = createMessages(place("messages"), { ...actions, ...createMarking(store, conversations.keep), look: lookInside });
const showWelcome = createWelcome(place("welcome"), send);
const showBanner = createBanner(place("banner"), { look, dismiss: () => store.set({ notice: "" }) });
const showModels = createModels(place("model"), catalog);
const panel = createPanel(place("panel"), place("panel-open"), (open) => {
  store.set({ panel: open });
  if (wide.matches) rememberChoice({ panel: open });
});
const showFigures = createFigures(panel.figures);
const showCards = createCards(panel.cards);
const composer = createComposer({ send, stop: actions.stop, draft: writing.changed, editLast: actions.editLast });
const focus = createFocus(composer);
const scrolling = createScrolling(place("scroller"), place("messages"));
const sidebar = createSidebar(place("sidebar"), place("sidebar-open"), {
  open: (id) => conversations.open(id),
  rename: conversations.rename,
  remove: (id) => conversations.remove(id),
  restore: (id) => conversations.restore(id),
  search: (text) => conversations.search(text),
  exportAll: () => conversations.hand(),
  importFile: (file) => conversations.bring(file),
  newChat: conversations.newChat,
});
const preferences = createPreferences(store, (c) => conversations.keepSoon(c));
const settingsDialog = /** @type {HTMLDialogElement} */ (place("settings"));
const showSettings = createSettings(settingsDialog, place("settings-open"), preferences).show;
createKeys(/** @type {HTMLDialogElement} */ (place("keys")), place("keys-open"), {
  stop: actions.stop,
  search: () => sidebar.search(),
  newChat: conversations.newChat,
});
place("new-chat").addEventListener("click", conversations.newChat);

store.subscribe((state, before) => {
  const changed = (/** @type {(keyof State)[]} */ ...names) => names.some((name) => state[name] !== before[name]);
  const conversation = state.open[state.current];
  if (!conversation) return;
  const empty = conversation.leaf === null;
  const mode = empty ? modeOf(state) : conversation.mode;
  const { running, editing, chosen, second } = state;
  const grown = conversation !== before.open[before.current]; // or another one is shown
  const answers = chosen ?? ownId(state);
  if (grown || changed("running", "editing", "server", "chosen", "second", "picker", "marked")) {
    const longest = state.server.defaults.max_tokens;
    const { picker: marks, marked } = state; // both are for those who are let in
    focus.keep(() => showMessages({ conversation, running, editing, longest, answers, pairs: second !== null, marks, marked }));
    const newest = path(conversation).findLast((node) => node.role === "assistant");
    showFigures(newest, newest !== undefined && newest.id in running);
  }
  if (grown || changed("models", "chosen", "second", "server")) showWelcome(empty, mode);
  if (changed("server", "notice")) showBanner(state.server.phase, state.notice);
  if (grown || changed("running", "server", "counted", "models", "chosen", "second")) {
    const away = state.server.phase === "gone" || state.server.phase === "login";
    composer.show({ busy: runningHere(state).length > 0, away, mode, begun: !empty, counted: state.counted });
  }
  if (changed("current")) {
    writing.settle();
    composer.fill(writing.draft() || (before.current ? "" : composer.text())); // or what was quicker than this page
    focus.toComposer();
  }
  if (changed("settings", "server", "open", "current", "system", "theme", "presets")) {
    const { settings, server, system: systemForNew, theme, presets } = state;
    const system = mode === "chat" ? conversation.system : null;
    showSettings({ settings, defaults: server.defaults, system, systemForNew, theme, presets });
  }
  if (changed("summaries", "current", "found", "storage")) {
    const { summaries, current, found, storage } = state;
    sidebar.show({ summaries, current, found, problem: storage, broken: database.broken });
  }
  if (changed("spoken")) place("spoken").textContent = state.spoken;
  if (changed("server", "models", "chosen", "second", "picker")) {
    const { models, picker, server } = state;
    showModels({ models, chosen, second, picker, own: ownId(state), size: sizeOf(server.model?.parameters ?? 0) });
    document.body.classList.toggle("beside", second !== null);
  }
  if (changed("panel", "picker")) panel.show(state.panel, state.picker);
  const asked = [...(answers ? [answers] : []), ...(second === null ? [] : [second])];
  if (changed("panel", "chosen", "second", "server", "cards")) {
    showCards(asked.map((id) => ({ id, ...(state.cards[id] ?? { card: undefined, problem: "" }) })));
  }
  if (state.panel && state.server.phase === "ready" && changed("panel", "chosen", "second", "server")) catalog.readCards(asked);
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

/** @type {Promise<ReturnType<typeof import("./look/looking.js").createLooking>> | undefined} */
let looking;

/** @param {string} id of an answer */
async function lookInside(id) {
  const dialog = /** @type {HTMLDialogElement} */ (place("look"));
  looking ??= import("./look/start.js").then(({ startLooking }) => startLooking(dialog, store, actions.goOnFrom));
  const found = await looking.catch(() => (looking = undefined));
  if (found) await found.look(id);
  else store.set({ notice: "The server cannot be reached, so that nobody can look inside now." });
}

panel.show(store.get().panel, false);

// ---- start ----------------------------------------------------------------------------------------------------

addEventListener("popstate", () => conversations.arrive());
await conversations.start();
place("starting").remove();
look();
stayOffline();
