// The conversations of this browser. Several tabs may have the same one open; none of them loses what another wrote.

import { StorageFull, StorageLater, answer, createConnection } from "./indexed.js";
import { readConversation } from "./shape.js";
import { askToStay } from "./staying.js";
import { isSummary, searched, summaryOf, wordsOfSearch } from "./summary.js";
import { merged } from "./tree.js";

export { StorageFull, summaryOf };

/**
 * @typedef {import("./tree.js").Conversation} Conversation
 * @typedef {import("./summary.js").Summary} Summary
 * @typedef {"" | "refused" | "full" | "later"} Problem what keeps conversations from being kept. refused: by the
 *   browser, as in a private window. later: a later version of this page has been here.
 * @typedef {Awaited<ReturnType<typeof openDatabase>>} Database
 */

const STORES = ["conversations", "summaries", "texts", "gone"]; // and "late", which must not wait for these
const EVERY = 1000; // ms between two writes of what grows
const UNDO = 60_000; // ms in which what was removed can be brought back
const REMEMBERED = 90 * 86_400_000; // ms that a removed conversation is known as such

/**
 * `onOther` is told the id of a conversation that another tab wrote or removed; "" for several.
 * @param {(id: string) => void} onOther
 */
export async function openDatabase(onOther) {
  const connection = createConnection();
  const channel = "BroadcastChannel" in window ? new BroadcastChannel("nanochat") : null;
  /** @type {Map<string, Conversation>} what is not written yet, or could not be */
  const held = new Map();
  /** @type {Map<string, Conversation>} what was removed and may be wanted back */
  const undoable = new Map();
  /** @type {Set<string>} ids of what was removed here: an answer may still be growing in it */
  const removed = new Set();
  /** @type {Map<string, Conversation>} what is to be written soon */
  const growing = new Map();
  /** @type {Set<string>} ids of what cannot be read */
  const broken = new Set();
  /** @type {number | undefined} */
  let timer;
  /** @type {Problem} */
  let problem = "";
  let usable = true; // whether there is a database at all

  try {
    await connection.connected();
  } catch (error) {
    usable = false;
    problem = error instanceof StorageLater ? "later" : "refused";
  }

  /** @param {string} id */
  const tell = (id) => channel?.postMessage(id);
  if (channel) channel.onmessage = ({ data }) => onOther(String(data));

  /**
   * Does `act` and says how it went; null where nothing can be kept.
   * @template T
   * @param {(store: (name: string) => IDBObjectStore) => Promise<T>} act
   * @param {string[]} [names] of stores
   * @returns {Promise<T | null>}
   */
  async function write(act, names = STORES) {
    if (!usable) return null;
    try {
      const done = await connection.transact(names, "readwrite", act);
      problem = "";
      return done;
    } catch (error) {
      if (error instanceof StorageLater) usable = false;
      problem = error instanceof StorageFull ? "full" : error instanceof StorageLater ? "later" : "refused";
      if (error instanceof StorageFull) throw error;
      return null;
    }
  }

  /**
   * Reads; nothing is found where nothing can be kept.
   * @template T
   * @param {string} name
   * @param {(store: IDBObjectStore) => IDBRequest<T[]>} ask
   * @returns {Promise<T[]>}
   */
  async function read(name, ask) {
    if (!usable) return [];
    try {
      return await connection.transact([name], "readonly", (store) => answer(ask(store(name))));
    } catch (error) {
      problem = error instanceof StorageLater ? "later" : "refused";
      return [];
    }
  }

  /**
   * @param {(name: string) => IDBObjectStore} store
   * @param {Conversation} conversation
   * @returns {Promise<Conversation | null>} with what other tabs wrote; null: one of them removed it
   */
  async function putInto(store, conversation) {
    const { id } = conversation;
    const [stored, gone] = await Promise.all([answer(store("conversations").get(id)), answer(store("gone").get(id))]);
    if (gone) return null;
    const both = withStored(stored, conversation);
    store("conversations").put(both);
    store("summaries").put(summaryOf(both));
    store("texts").put({ id, text: searched(both) });
    return both;
  }

  /**
   * @param {unknown} stored
   * @param {Conversation} conversation
   */
  function withStored(stored, conversation) {
    if (stored === undefined) return conversation;
    try {
      return merged(readConversation(stored), conversation);
    } catch {
      return conversation; // what stood there cannot be read anyway
    }
  }

  /**
   * Writes now. Rejects with StorageFull; whatever happens, this tab goes on knowing the conversation.
   * @param {Conversation} conversation
   * @returns {Promise<Conversation | null>} with what other tabs wrote meanwhile; null: one of them removed it
   */
  async function put(conversation) {
    const { id } = conversation;
    if (removed.has(id)) return null;
    growing.delete(id);
    const before = held.get(id);
    const mine = before ? merged(before, conversation) : conversation;
    held.set(id, mine);
    let kept = /** @type {Conversation | null} */ (mine);
    const done = await write(async (store) => {
      kept = await putInto(store, mine);
      return true;
    });
    if (!done) return mine;
    if (held.get(id) === mine) held.delete(id);
    if (kept === null) {
      growing.delete(id);
      onOther(id); // nothing of it is kept any more, which must not go unsaid
      return null;
    }
    tell(id);
    if (held.size > 0) await writeHeld();
    askToStay();
    return kept;
  }

  /** What found no room before may find some now. */
  async function writeHeld() {
    for (const [id, conversation] of [...held]) {
      try {
        await write((store) => putInto(store, conversation));
      } catch {
        return; // still full, as `problem` says
      }
      if (!problem && held.get(id) === conversation) held.delete(id);
    }
  }

  async function flush() {
    clearTimeout(timer);
    timer = undefined;
    const all = [...growing.values()];
    for (const conversation of all) {
      await put(conversation).catch((error) => {
        if (!(error instanceof StorageFull)) throw error; // `problem` says it
      });
    }
  }

  /** A page that is being closed lives no longer than its next lines: it writes without asking what is there. */
  async function writeLate() {
    const unwritten = [...held.values(), ...growing.values()];
    if (unwritten.length === 0 || !usable) return;
    try {
      const transaction = (await connection.connected()).transaction("late", "readwrite");
      for (const conversation of unwritten) transaction.objectStore("late").add(conversation);
      transaction.commit();
    } catch {
      // too late
    }
  }
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) flush();
  });
  addEventListener("pagehide", writeLate);

  /** @param {Conversation} conversation */
  const withHeld = (conversation) => {
    const mine = growing.get(conversation.id) ?? held.get(conversation.id);
    return mine ? merged(conversation, mine) : conversation;
  };

  /**
   * @param {string} id
   * @returns {Promise<Conversation | undefined>} undefined also where it cannot be read, which `broken` tells
   */
  async function get(id) {
    const [stored] = await read("conversations", (store) => store.getAll(id));
    if (stored === undefined) return growing.get(id) ?? held.get(id);
    try {
      return withHeld(readConversation(stored));
    } catch {
      broken.add(id);
      return undefined;
    }
  }

  /** @returns {AsyncGenerator<Conversation>} all that can be read; what cannot is counted */
  async function* all() {
    await flush();
    const kept = (await read("conversations", (store) => store.getAllKeys())).map(String);
    for (const id of new Set([...kept, ...held.keys()])) {
      const found = await get(id);
      if (found) yield found;
    }
  }

  await mend();

  /** Takes in what closing pages wrote, forgets old removals, and lists what was not listed. */
  async function mend() {
    if ((await read("late", (store) => store.getAllKeys())).length > 0) {
      await write(async (store) => {
        for (const one of await answer(store("late").getAll())) {
          try {
            await putInto(store, readConversation(one));
          } catch (error) {
            if (error instanceof DOMException) throw error; // no fault of the conversation
          }
        }
        store("late").clear();
      }, [...STORES, "late"]).catch(() => {}); // full: it stays there
    }
    const gone = await read("gone", (store) => store.getAll());
    const old = gone.filter(({ at }) => !(Date.now() - at < REMEMBERED));
    if (old.length > 0) await write(async (store) => old.forEach(({ id }) => store("gone").delete(id))).catch(() => {});
    const [kept, listed] = [
      await read("conversations", (store) => store.getAllKeys()),
      new Set(await read("summaries", (store) => store.getAllKeys())),
    ];
    for (const id of kept.map(String).filter((one) => !listed.has(one))) {
      const found = await get(id);
      if (found) await put(found).catch(() => {});
    }
  }

  return {
    get problem() {
      return problem;
    },
    /** How many conversations were found that cannot be read. They stay where they are. */
    get broken() {
      return broken.size;
    },

    /** @returns {Promise<Summary[]>} newest first */
    async list() {
      const kept = (await read("summaries", (store) => store.getAll())).filter(isSummary).filter(({ id }) => !broken.has(id));
      const found = new Map(kept.map((summary) => [summary.id, summary]));
      for (const one of [...held.values(), ...growing.values()]) found.set(one.id, summaryOf(one));
      return [...found.values()].sort((a, b) => b.changed - a.changed || (a.id < b.id ? 1 : -1));
    },
    get,
    put,
    all,
    flush,

    /**
     * Writes about once a second, and when the page is left: for what grows.
     * @param {Conversation} conversation
     */
    soon(conversation) {
      if (removed.has(conversation.id)) return;
      growing.set(conversation.id, conversation);
      timer ??= window.setTimeout(flush, EVERY);
    },

    /**
     * In this and all tabs. `restore` brings it back, for a while.
     * @param {string} id
     */
    async remove(id) {
      const found = await get(id);
      removed.add(id);
      growing.delete(id);
      held.delete(id);
      if (found) undoable.set(id, found);
      setTimeout(() => undoable.delete(id), UNDO);
      /** @param {boolean} marked */
      const without = (marked) => async (/** @type {(name: string) => IDBObjectStore} */ store) => {
        for (const name of ["conversations", "summaries", "texts"]) store(name).delete(id);
        if (marked) store("gone").put({ id, at: Date.now() });
      };
      await write(without(true)).catch(() => write(without(false))); // a full database has no room for the mark
      broken.delete(id);
      tell(id);
      if (held.size > 0) await writeHeld();
    },

    /**
     * @param {string} id
     * @returns {Promise<Conversation | null>} null: it is too late
     */
    async restore(id) {
      const conversation = undoable.get(id);
      if (!conversation) return null;
      removed.delete(id);
      await write(async (store) => store("gone").delete(id)).catch(() => {}); // full: putting it says so
      undoable.delete(id);
      return put(conversation);
    },

    /**
     * Takes in conversations that a person brings, also such as were removed here: all of them, or none.
     * @param {Conversation[]} conversations
     * @returns {Promise<{added: number, changed: number}>}
     */
    async bring(conversations) {
      await flush();
      for (const { id } of conversations) removed.delete(id);
      let [added, changed] = [0, 0];
      const done = await write(async (store) => {
        for (const conversation of conversations) {
          const stored = await answer(store("conversations").get(conversation.id));
          store("gone").delete(conversation.id);
          const both = await putInto(store, conversation);
          if (stored === undefined) added++;
          else if (JSON.stringify(stored) !== JSON.stringify(both)) changed++;
        }
        return true;
      });
      if (!done) {
        [added, changed] = [0, 0];
        for (const one of conversations) {
          const before = held.get(one.id);
          held.set(one.id, before ? merged(before, one) : one);
          if (before) changed++;
          else added++;
        }
      }
      tell("");
      return { added, changed };
    },

    /**
     * Ids of the conversations in which all of these words occur, in their titles or in any branch.
     * @param {string} text
     * @returns {Promise<string[]>}
     */
    async search(text) {
      const words = wordsOfSearch(text);
      const has = (/** @type {string} */ within) => words.every((word) => within.includes(word));
      const found = new Map((await read("texts", (store) => store.getAll())).map((one) => [String(one.id), String(one.text)]));
      for (const one of [...held.values(), ...growing.values()]) found.set(one.id, searched(one));
      return [...found].filter(([, within]) => has(within)).map(([id]) => id);
    },
  };
}
