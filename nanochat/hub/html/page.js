// The page: a question, an answer that streams, a way to stop it.

import { connect } from "./connection.js";

/**
 * @typedef {import("./protocol.js").FromWorker} FromWorker
 * @typedef {import("./protocol.js").Header} Header
 * @typedef {import("./protocol.js").Message} Message
 * @typedef {import("./rendering.js").Part} Part
 */

/** @param {string} id */
function place(id) {
  const element = document.getElementById(id);
  if (!element) throw new Error(`the page lacks ${id}`);
  return element;
}

/** The text of a block, which leaves the page with it: it is needed once, and large.
 * @param {string} id
 */
function taken(id) {
  const element = place(id), text = element.textContent ?? "";
  element.remove();
  return text;
}

const input = /** @type {HTMLTextAreaElement} */ (place("input"));
const sendButton = /** @type {HTMLButtonElement} */ (place("send"));
const header = /** @type {Header} */ (JSON.parse(taken("header")));
/** @type {Message[]} */
const messages = [];
/** @type {{id: string, parts: Part[], body: HTMLElement} | null} */
let answering = null;
let ready = false, asked = 0, drawn = 0; // drawn: the frame that will show what has come

/** @param {string} text */
const tell = (text) => (place("banner").textContent = text);

function show() {
  sendButton.disabled = !ready || Boolean(answering) || !input.value.trim();
  place("stop").hidden = !answering;
}

/**
 * @param {"user" | "assistant"} role
 * @param {string} text
 */
function addMessage(role, text) {
  const message = document.createElement("div"), body = document.createElement("div");
  message.className = `message ${role}`;
  body.className = "body";
  body.textContent = text;
  message.append(body);
  place("messages").append(message);
  message.scrollIntoView({ block: "end" });
  return body;
}

function ask() {
  const text = input.value;
  if (sendButton.disabled) return;
  const id = String(++asked);
  place("welcome").hidden = true;
  messages.push({ role: "user", content: text });
  addMessage("user", text);
  input.value = "";
  answering = { id, parts: [], body: addMessage("assistant", "") };
  // A base model goes on with a text.
  send({ type: "ask", ask: header.chat ? { id, mode: "chat", messages } : { id, mode: "text", text } });
  show();
}

/**
 * @param {Part[]} parts
 * @param {HTMLElement} body
 */
function draw(parts, body) {
  drawn = 0;
  body.textContent = parts.map(({ type, text }) => (type === "text" ? text : ` [${text}] `)).join("");
  body.scrollIntoView({ block: "end" });
}

/** @param {FromWorker} message */
function hear(message) {
  if (message.type === "wanted") {
    tell(`Unpacking the model: ${Math.round((100 * message.block) / header.blocks)}%`);
  } else if (message.type === "ready") {
    ready = true;
    tell("");
  } else if (message.type === "broken") {
    ready = false;
    tell(`This browser cannot run the model: ${message.error}. Try a current Firefox, Chrome, Edge or Safari.`);
  } else if (answering && "id" in message && message.id === answering.id) {
    const { parts, body } = answering;
    if (message.type === "tokens") {
      for (const [, text, kind] of message.tokens) {
        if (kind === "special") continue;
        if (parts[parts.length - 1]?.type !== kind) parts.push({ type: kind, text: "" });
        parts[parts.length - 1].text += text;
      }
      drawn ||= requestAnimationFrame(() => draw(parts, body));
    } else if (message.type === "end") {
      if (message.end.error) tell(`The model failed: ${message.end.error}.`);
      messages.push({ role: "assistant", content: parts.length ? parts : "" });
      cancelAnimationFrame(drawn);
      draw(parts, body);
      answering = null;
      input.focus();
    }
  }
  show();
}

place("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
place("stop").addEventListener("click", () => answering && send({ type: "stop", id: answering.id }));
input.addEventListener("input", show);
input.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    ask();
  }
  if (event.key === "Escape" && answering) send({ type: "stop", id: answering.id });
});

place("model").textContent = header.name;
place("unable").remove();
place("page").hidden = false;
const send = connect(taken("worker"), header, (block) => taken(`weights-${block}`), hear);
