// The conversations: which one is shown, and that all are kept.

import { StorageFull, summaryOf } from "./database.js";
import { forgetDraft } from "./drafts.js";
import { modeOf } from "./state.js";
import { download, exportAll, importFile } from "./transfer.js";
import { merged, newConversation, path, withLeaf, withTitle } from "./tree.js";

/**
 * @typedef {import("./state.js").State} State
 * @typedef {import("./tree.js").Conversation} Conversation
 * @typedef {{get: () => State, set: (change: Partial<State>) => void}} Store
 * @typedef {import("./database.js").Database} Database
 */

const RECENT = 15 * 60_000; // ms in which an answer may still be on its way

/**
 * @param {Store} store
 * @param {Database} database
 * @param {ReturnType<typeof import("./running.js").createRunning>} running
 */
export function createConversations(store, database, running) {
  let opening = 0;
  let searching = 0;

  const here = () => store.get().open[store.get().current];

  /** Those with answers on their way stay open, whatever is shown. */
  function still() {
    const { open, running } = store.get();
    const busy = new Set(Object.values(running).map((one) => one.conversation));
    return Object.fromEntries(Object.entries(open).filter(([id]) => busy.has(id)));
  }

  /** @param {Conversation} c */
  function show(c) {
    store.set({ open: { ...still(), [c.id]: c }, current: c.id, editing: null, looking: null, counted: null, notice: "" });
    for (const node of Object.values(c.nodes)) if (node.pending) running.resume(c.id, node);
  }

  /** @param {Conversation} c */
  async function keep(c) {
    listed(c);
    try {
      await database.put(c);
    } catch (error) {
      if (!(error instanceof StorageFull)) throw error; // `storage` says it, and it stays on the screen
    }
    if (store.get().storage !== database.problem) store.set({ storage: database.problem });
  }

  /** @param {Conversation} c */
  function listed(c) {
    const { summaries, current } = store.get();
    const mine = summaryOf(c);
    const known = summaries.find((one) => one.id === c.id);
    if (known?.title !== mine.title || known.changed !== mine.changed) {
      const others = summaries.filter((one) => one !== known);
      store.set({ summaries: [mine, ...others].sort((a, b) => b.changed - a.changed) });
    }
    if (c.id === current && location.hash !== `#${c.id}`) history.replaceState(null, "", `#${c.id}`);
  }

  /** @param {string} id */
  const found = (id) => database.get(id).catch(() => undefined); // one that cannot be read is as good as none

  async function list() {
    store.set({ summaries: await database.list(), storage: database.problem });
  }

  function newChat() {
    opening++;
    if (location.hash) history.pushState(null, "", location.pathname);
    const state = store.get();
    show(newConversation(state.system, modeOf(state)));
  }

  /**
   * Shows it no more, and reads no more into it.
   * @param {string} id
   */
  function forget(id) {
    const { running: on, open, current } = store.get();
    for (const [node, one] of Object.entries(on)) if (one.conversation === id) running.stop(node);
    const { [id]: _, ...others } = open;
    store.set({ open: others });
    if (current === id) newChat();
  }

  /** Answers that were on their way when the page was left are read on, not only in what is shown. */
  async function takeUp() {
    const recent = store.get().summaries.filter(({ changed }) => Date.now() - changed < RECENT);
    for (const { id } of recent) {
      const c = store.get().open[id] ? undefined : await found(id);
      const pending = Object.values(c?.nodes ?? {}).filter((node) => node.pending);
      if (!c || pending.length === 0 || store.get().open[id]) continue;
      store.set({ open: { ...store.get().open, [id]: c } });
      for (const node of pending) running.resume(id, node);
    }
  }

  /**
   * @param {string} id
   * @param {boolean} [byHistory] the address names it already
   */
  async function open(id, byHistory = false) {
    const mine = ++opening;
    const c = store.get().open[id] ?? (await found(id));
    if (mine !== opening) return; // another was opened meanwhile
    if (!c) {
      newChat();
      store.set({ notice: "This conversation is not here any more, or cannot be read." });
      await list(); // which does not offer it again
      return;
    }
    if (!byHistory && location.hash !== `#${id}`) history.pushState(null, "", `#${id}`);
    show(c);
  }

  /**
   * @param {string} id
   * @param {(c: Conversation) => Conversation} change
   */
  async function change(id, change) {
    const before = store.get().open[id] ?? (await found(id));
    if (!before) return;
    const c = change(before);
    if (store.get().open[id]) store.set({ open: { ...store.get().open, [id]: c } });
    await keep(c);
  }

  return {
    keep,

    /** @param {Conversation} c one that grows */
    keepSoon(c) {
      listed(c);
      database.soon(c);
    },

    list,
    newChat,
    open,
    change,

    /** The conversation that the address names, else a new one. */
    async start() {
      await list();
      await this.arrive();
      takeUp();
    },

    async arrive() {
      const id = location.hash.slice(1);
      if (!id) newChat();
      else if (id !== store.get().current) await open(id, true);
    },

    /**
     * @param {string} id
     * @param {string} title
     */
    rename: (id, title) => change(id, (c) => withTitle(c, title)),

    /** @param {string} id */
    async remove(id) {
      forget(id);
      forgetDraft(id);
      await database.remove(id);
      await list();
    },

    /** @param {string} id one that was removed a moment ago */
    async restore(id) {
      const back = await database.restore(id);
      await list();
      if (back && here().leaf === null) await open(id);
    },

    /** @param {File} file */
    async bring(file) {
      const done = await importFile(database, file);
      await this.heard(store.get().current); // it may have grown
      return done;
    },

    /** All of them, to the person. */
    async hand() {
      download(await exportAll(database), `nanochat-${new Date().toISOString().slice(0, 10)}.json`);
      await list(); // what cannot be read is known now
    },

    /** @param {string} text */
    async search(text) {
      const mine = ++searching;
      const found = text.trim() ? await database.search(text.trim()) : null;
      if (mine === searching) store.set({ found });
    },

    /**
     * Another tab changed a conversation.
     * @param {string} id
     */
    async heard(id) {
      const theirs = id ? await found(id) : undefined;
      const ours = store.get().open[id];
      if (ours && theirs) {
        const both = merged(ours, theirs);
        // What is read here goes on as it is read here; and where the other went on after our last message, we follow.
        const read = Object.keys(store.get().running).filter((node) => ours.nodes[node]);
        for (const node of read) both.nodes[node] = ours.nodes[node];
        const follows = path(theirs).some((node) => node.id === ours.leaf);
        const c = follows || !(ours.leaf && both.nodes[ours.leaf]) ? both : withLeaf(both, ours.leaf);
        store.set({ open: { ...store.get().open, [id]: c } });
        if (id === store.get().current) {
          for (const node of Object.values(c.nodes)) if (node.pending) running.resume(id, node);
        }
      } else if (ours && !theirs && Object.keys(ours.nodes).length > 0 && !database.problem) {
        const shown = id === store.get().current;
        forget(id);
        if (shown) store.set({ notice: "This conversation was deleted in another tab." });
      }
      await list();
    },
  };
}
