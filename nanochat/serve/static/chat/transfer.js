// Conversations to a file and back. A file is taken in wholly or, when anything in it is odd, not at all.

import { StorageFull } from "./indexed.js";
import { Misshapen, isObject, must, readConversation } from "./shape.js";
import { merged } from "./tree.js";

/**
 * @typedef {import("./tree.js").Conversation} Conversation
 * @typedef {import("./tree.js").Node} Node
 * @typedef {import("./tree.js").Part} Part
 * @typedef {import("./database.js").Database} Database
 */

const MOST = 50; // MB of a file
const DEEPEST = 50; // objects within objects
const TOLD = 5; // problems
const SHAPES = 'It takes what "Export" wrote, what /save wrote in the terminal, and lines of {"messages": [...]}.';

/**
 * @param {Database} database
 * @returns {Promise<Blob>}
 */
export async function exportAll(database) {
  /** @type {string[]} */
  const parts = [];
  for await (const conversation of database.all()) parts.push(parts.length > 0 ? ",\n" : "", JSON.stringify(conversation));
  return new Blob(['{"nanochat": 1, "conversations": [\n', ...parts, "\n]}\n"], { type: "application/json" });
}

/**
 * Hands a file to the person.
 * @param {Blob} blob
 * @param {string} name
 */
export function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/**
 * @param {Database} database
 * @param {File} file
 * @returns {Promise<{added: number, changed: number, problems: string[]}>}
 */
export async function importFile(database, file) {
  const nothing = (/** @type {string[]} */ problems) => ({ added: 0, changed: 0, problems });
  if (file.size > MOST * 1e6) {
    return nothing([`${file.name} has ${Math.ceil(file.size / 1e6)} MB, and at most ${MOST} MB can be imported at once.`]);
  }
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
    const { conversations, problems } = readFile(text, Math.min(file.lastModified, Date.now()));
    if (problems.length > 0) {
      const more = problems.length > TOLD ? [`And ${problems.length - TOLD} more.`] : [];
      return nothing(["Nothing was imported.", ...problems.slice(0, TOLD), ...more]);
    }
    return { ...(await database.bring(conversations)), problems: [] };
  } catch (error) {
    if (error instanceof StorageFull) {
      return nothing(["Nothing was imported: there is no room left. Export and delete some conversations."]);
    }
    if (error instanceof Misshapen) return nothing([`Nothing was imported: ${error.message}. ${SHAPES}`]);
    if (error instanceof TypeError) return nothing([`Nothing was imported: ${file.name} is no text in UTF-8. ${SHAPES}`]);
    return nothing([`Nothing was imported: ${file.name} cannot be read (${error}).`]);
  }
}

/**
 * Throws Misshapen where it is no file of ours at all.
 * @param {string} text
 * @param {number} written when, in ms
 */
function readFile(text, written) {
  const found = readJson(text);
  const own = found.length === 1 && isObject(found[0]) && "nanochat" in found[0] ? found[0] : null;
  if (own) {
    must(own.nanochat === 1, `the file is of version ${own.nanochat}, and this page knows version 1`);
    must(Array.isArray(own.conversations), "its conversations are no list");
  }
  const all = own ? /** @type {unknown[]} */ (own.conversations) : found;
  must(all.length > 0, "there is no conversation in the file");
  /** @type {string[]} */
  const problems = [];
  /** @type {Map<string, Conversation>} */
  const conversations = new Map();
  all.forEach((one, index) => {
    try {
      const conversation = own ? readConversation(one) : fromMessages(one, written - 1000 * index); // the first is the newest
      must(!isDeeper(conversation, DEEPEST), "it is nested too deeply"); // it could not be kept
      const before = conversations.get(conversation.id);
      conversations.set(conversation.id, before ? merged(before, conversation) : conversation);
    } catch (error) {
      if (!(error instanceof Misshapen)) throw error;
      problems.push(`${own ? "Conversation" : "Line"} ${index + 1}: ${error.message}.`);
    }
  });
  return { conversations: [...conversations.values()], problems };
}

/**
 * @param {unknown} value
 * @param {number} most
 * @returns {boolean}
 */
function isDeeper(value, most) {
  if (typeof value !== "object" || value === null) return false;
  return most === 0 || Object.values(value).some((one) => isDeeper(one, most - 1));
}

/**
 * One value, or one for each line.
 * @param {string} text
 * @returns {unknown[]}
 */
function readJson(text) {
  try {
    return [JSON.parse(text)];
  } catch (error) {
    const lines = text.split("\n").filter((line) => line.trim());
    must(lines.length > 0, "the file is empty");
    return lines.map((line, index) => {
      try {
        return JSON.parse(line);
      } catch {
        throw new Misshapen(lines.length > 1 && index > 0 ? `line ${index + 1} is not JSON` : "the file is not JSON");
      }
    });
  }
}

/**
 * A conversation as data sets have it. Its ids come from its words, so that the same file twice makes nothing twice.
 * @param {unknown} line
 * @param {number} time in ms
 * @returns {Conversation}
 */
function fromMessages(line, time) {
  must(isObject(line) && Array.isArray(line.messages) && line.messages.length > 0, "it has no list of messages");
  const [first, ...rest] = line.messages;
  const hasSystem = isObject(first) && first.role === "system";
  const system = hasSystem ? first.content : "";
  must(typeof system === "string", "its system message is not text");
  const turns = hasSystem ? rest : line.messages;
  must(turns.length > 0, "it has no user message");
  /** @type {Node[]} */
  const nodes = [];
  turns.forEach((message, place) => {
    const role = place % 2 === 0 ? "user" : "assistant";
    must(isObject(message) && message.role === role, `message ${place + 1} is not from the ${role}: they take turns`);
    const parts = readParts(message.content, `message ${place + 1}`);
    const above = nodes.at(-1)?.id ?? null;
    const id = idOf(`${above ?? system} ${role} ${JSON.stringify(parts)}`);
    nodes.push({ id, parent: above, role, parts, time: Math.max(0, time - turns.length + place) });
  });
  const leaf = nodes[nodes.length - 1].id;
  const times = { created: nodes[0].time, changed: Math.max(0, time) };
  const byId = Object.fromEntries(nodes.map((node) => [node.id, node]));
  return { version: 1, id: idOf(`all of ${leaf}`), title: "", named: false, system, mode: "chat", ...times, nodes: byId, leaf };
}

/**
 * @param {unknown} content
 * @param {string} where
 * @returns {Part[]}
 */
function readParts(content, where) {
  if (typeof content === "string") return [{ type: "text", text: content }];
  must(Array.isArray(content) && content.length > 0, `${where} has neither text nor parts`);
  return content.map((part) => {
    must(isObject(part) && typeof part.text === "string", `${where} has a part without text`);
    const { type, text } = part;
    must(type === "text" || type === "python" || type === "python_output", `${where} has a part of an unknown type`);
    return { type, text };
  });
}

/**
 * 32 hexadecimal digits that depend on all of the text. (FNV-1a, four times; crypto.subtle is missing on plain http.)
 * @param {string} text
 */
function idOf(text) {
  const sums = [0x811c9dc5, 0x01000193, 0x9e3779b9, 0x85ebca6b];
  for (let place = 0; place < text.length; place++) {
    const unit = text.charCodeAt(place);
    for (let n = 0; n < 4; n++) sums[n] = Math.imul(sums[n] ^ (unit + n * 0x10001), 0x01000193 + 2 * n);
  }
  return sums.map((sum) => (sum >>> 0).toString(16).padStart(8, "0")).join("");
}
