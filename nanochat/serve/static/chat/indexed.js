// IndexedDB with promises: the browser's place for conversations.

const NAME = "nanochat";
const VERSION = 1;
const PATIENCE = 10_000; // ms; some browsers that refuse storage never answer

/** There is no room for what should be kept. */
export class StorageFull extends Error {}

/** A later version of this page has been here, and keeps conversations in a way that is not known here. */
export class StorageLater extends Error {}

/**
 * @template T
 * @param {IDBRequest<T>} asked
 * @returns {Promise<T>}
 */
export function answer(asked) {
  return new Promise((resolve, reject) => {
    asked.onsuccess = () => resolve(asked.result);
    asked.onerror = () => reject(asked.error);
  });
}

/**
 * Rejects where the browser keeps nothing for this page.
 * @returns {Promise<IDBDatabase>}
 */
function open() {
  return new Promise((resolve, reject) => {
    const asked = indexedDB.open(NAME, VERSION); // throws, or is missing, where storage is refused
    const timer = setTimeout(() => reject(new Error("the browser's storage does not answer")), PATIENCE);
    asked.onupgradeneeded = () => {
      // conversations: whole. summaries: what the list shows. texts: what is searched. gone: what must not come back.
      for (const name of ["conversations", "summaries", "texts", "gone"]) {
        asked.result.createObjectStore(name, { keyPath: "id" });
      }
      asked.result.createObjectStore("late", { autoIncrement: true }); // written by a page that was being closed
    };
    asked.onsuccess = () => {
      clearTimeout(timer);
      resolve(asked.result);
    };
    asked.onerror = () => {
      clearTimeout(timer);
      reject(asked.error?.name === "VersionError" ? new StorageLater() : asked.error);
    };
  });
}

/** A connection that comes back when the browser closes it. */
export function createConnection() {
  /** @type {Promise<IDBDatabase> | null} */
  let opened = null;

  /** @returns {Promise<IDBDatabase>} */
  function connected() {
    opened ??= open().then((database) => {
      const lost = () => (opened = null);
      database.onclose = lost;
      database.onversionchange = () => {
        database.close(); // a later version of this page wants to change it, or the person clears it
        lost();
      };
      return database;
    });
    return opened;
  }

  return {
    connected,
    /**
     * Does `act` in one transaction, wholly or not at all. No other transaction has these stores meanwhile.
     * @template T
     * @param {string[]} names
     * @param {"readonly" | "readwrite"} mode
     * @param {(store: (name: string) => IDBObjectStore) => Promise<T>} act
     * @returns {Promise<T>}
     */
    async transact(names, mode, act) {
      const transaction = await begun(connected, names, mode);
      const ended = new Promise((resolve, reject) => {
        transaction.oncomplete = resolve;
        transaction.onabort = () => reject(transaction.error ?? new Error("the browser gave up writing"));
      });
      ended.catch(() => {}); // is awaited below, unless `act` fails first
      try {
        const result = await act((name) => transaction.objectStore(name));
        await ended;
        return result;
      } catch (error) {
        try {
          transaction.abort();
        } catch {
          // it has ended already
        }
        throw isQuota(error) || isQuota(transaction.error) ? new StorageFull() : error;
      }
    },
  };
}

/**
 * @param {() => Promise<IDBDatabase>} connected
 * @param {string[]} names
 * @param {"readonly" | "readwrite"} mode
 */
async function begun(connected, names, mode) {
  const database = await connected();
  try {
    return database.transaction(names, mode);
  } catch (error) {
    if (!(error instanceof DOMException) || error.name !== "InvalidStateError") throw error;
    database.onclose?.(new Event("close")); // it was closing: once more, on a new connection
    return (await connected()).transaction(names, mode);
  }
}

/** @param {unknown} error */
const isQuota = (error) => error instanceof DOMException && error.name === "QuotaExceededError";
