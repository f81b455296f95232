// The chat page. What people and models write enters the page through textContent alone, so it is always text.

const MAX_CHARACTERS = 32000; // in a conversation, the same as on the server
const SUGGESTIONS = ["Who are you?", "What is 34 * 12?", "How many r are in strawberry?"];

const byId = (id) => document.getElementById(id);
const input = byId("input");
const scroller = byId("scroller");
const log = byId("messages");

let conversation = []; // {role, content}: content is text (user) or a list of {type, text} (assistant)
let running = null; // the AbortController of the answer that is being written

// ---- settings -------------------------------------------------------------------------------------------------

let defaults = { temperature: 0.6, top_k: 50, max_tokens: 512 };
const settings = load("nanochat-settings");

function load(key) {
  try {
    const value = JSON.parse(localStorage.getItem(key));
    return value && typeof value === "object" ? value : {};
  } catch {
    return {}; // private windows may have no storage
  }
}

function save() {
  try {
    localStorage.setItem("nanochat-settings", JSON.stringify(settings));
  } catch {
    // settings then last as long as the page
  }
}

const FIELDS = { "temperature": "temperature", "top-k": "top_k", "max-tokens": "max_tokens" };

function setting(name) {
  return settings[name] ?? defaults[name];
}

function showSettings() {
  for (const [id, name] of Object.entries(FIELDS)) {
    byId(id).value = setting(name);
    const shown = byId(`${id}-value`);
    if (shown) shown.textContent = setting(name);
  }
  byId("theme").value = settings.theme ?? "";
  document.documentElement.dataset.theme = settings.theme ?? "";
}

for (const [id, name] of Object.entries(FIELDS)) {
  byId(id).addEventListener("input", (event) => {
    if (!event.target.checkValidity() || event.target.value === "") return;
    settings[name] = Number(event.target.value);
    save();
    const shown = byId(`${id}-value`);
    if (shown) shown.textContent = settings[name];
  });
}
byId("theme").addEventListener("change", (event) => {
  settings.theme = event.target.value;
  save();
  showSettings();
});
byId("settings-open").addEventListener("click", () => {
  showSettings();
  byId("settings").showModal();
});
byId("settings-reset").addEventListener("click", () => {
  for (const name of Object.keys(settings)) delete settings[name];
  save();
  showSettings();
});

// ---- messages on the page -------------------------------------------------------------------------------------

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function button(text, action) {
  const made = element("button", "", text);
  made.type = "button";
  made.addEventListener("click", action);
  return made;
}

function addMessage(role) {
  const message = element("article", `message ${role}`);
  message.setAttribute("aria-label", role === "user" ? "You" : "nanochat");
  const body = element("div", "body");
  const actions = element("div", "actions");
  message.append(body, actions);
  log.append(message);
  byId("welcome").hidden = true;
  return { message, body, actions };
}

function showUser(text) {
  const index = conversation.length - 1;
  const { message, body, actions } = addMessage("user");
  body.textContent = text;
  actions.append(button("Edit", () => {
    if (running) return;
    forget(message, index);
    input.value = text;
    inputChanged();
    input.focus();
  }));
}

/** Remove a message and all after it from the page and the conversation. */
function forget(message, index) {
  conversation.length = index;
  while (message.nextSibling) message.nextSibling.remove();
  message.remove();
  byId("welcome").hidden = conversation.length > 0;
}

/** Writes the parts of one answer into the page as they grow. */
class AnswerView {
  constructor() {
    Object.assign(this, addMessage("assistant"));
    this.index = conversation.length; // where the answer will stand
    this.parts = [];
    this.message.classList.add("streaming");
    this.body.classList.add("waiting");
  }

  add(type, text) {
    const atEnd = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 80;
    this.body.classList.remove("waiting");
    let last = this.parts.at(-1);
    if (!last || last.type !== type) {
      last = { type, text: "" };
      this.parts.push(last);
      this.node = element("span", type);
      if (type === "text") {
        this.body.append(this.node);
      } else {
        if (type === "python" || !this.tool) {
          this.tool = element("span", "tool");
          this.body.append(this.tool);
        }
        this.tool.append(this.node);
      }
    }
    last.text += text;
    this.node.textContent = last.text;
    if (atEnd) scroller.scrollTop = scroller.scrollHeight;
  }

  note(text, bad) {
    this.message.insertBefore(element("div", bad ? "note bad" : "note", text), this.actions);
  }

  finish() {
    this.message.classList.remove("streaming");
    this.body.classList.remove("waiting");
    if (this.parts.length) {
      const words = this.parts.filter((part) => part.type === "text").map((part) => part.text).join("");
      if (navigator.clipboard) this.actions.append(button("Copy", () => navigator.clipboard.writeText(words)));
    }
    this.actions.append(button("Try again", () => {
      if (running) return;
      forget(this.message, this.index);
      answer();
    }));
  }
}

// ---- talking to the server ------------------------------------------------------------------------------------

const length = (message) =>
  typeof message.content === "string"
    ? message.content.length
    : message.content.reduce((sum, part) => sum + part.text.length, 0);

/** The newest messages that the server accepts, beginning with a user message. */
function recent() {
  let start = conversation.length - 1;
  let total = length(conversation[start]);
  while (start >= 2 && conversation.length - start < 400) {
    total += length(conversation[start - 1]) + length(conversation[start - 2]);
    if (total > MAX_CHARACTERS) break;
    start -= 2;
  }
  return conversation.slice(start);
}

/** The `data:` objects of a response, one after another. */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    buffer += value;
    const blocks = buffer.split("\n\n");
    buffer = blocks.pop();
    for (const block of blocks) {
      if (block.startsWith("data: ")) yield JSON.parse(block.slice(6));
    }
  }
}

/** Ask for the answer to the conversation as it stands, and show it as it comes. */
async function answer() {
  running = new AbortController();
  const mine = conversation; // "New chat" replaces it while this answer is still stopping
  const view = new AnswerView();
  stateChanged();
  scroller.scrollTop = scroller.scrollHeight;
  try {
    const response = await fetch("/chat/completions", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({
        messages: recent(),
        temperature: settings.temperature, // left out where the server's default counts
        top_k: settings.top_k,
        max_tokens: settings.max_tokens,
      }),
      signal: running.signal,
    });
    if (!response.ok) {
      const problem = await response.json().catch(() => ({}));
      throw new Error(problem.detail ?? `The server answered ${response.status}.`);
    }
    let finished = false;
    for await (const event of events(response)) {
      if (event.token) view.add("text", event.token);
      if (event.tool) view.add(event.tool, event.text);
      if (event.error) view.note(event.error, true);
      finished = event.done ?? finished;
    }
    if (!finished) view.note("The answer broke off.", true);
    else if (!view.parts.length) view.note("The model had nothing to say.");
  } catch (error) {
    if (error.name === "AbortError") view.note("Stopped.");
    else view.note(error instanceof TypeError ? "The server cannot be reached." : error.message, true);
  }
  if (view.parts.length) mine.push({ role: "assistant", content: view.parts });
  view.finish();
  running = null;
  stateChanged();
}

function send(text) {
  // A failed or empty answer leaves the user's message last: the new one replaces it.
  if (conversation.at(-1)?.role === "user") conversation.pop();
  conversation.push({ role: "user", content: text });
  showUser(text);
  answer();
}

// ---- the composer ---------------------------------------------------------------------------------------------

function inputChanged() {
  input.style.height = "auto";
  input.style.height = `${input.scrollHeight}px`;
  stateChanged();
}

function stateChanged() {
  byId("send").hidden = Boolean(running);
  byId("stop").hidden = !running;
  byId("send").disabled = !input.value.trim();
}

byId("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = input.value.trim();
  if (!text || running) return;
  input.value = "";
  inputChanged();
  send(text);
});
input.addEventListener("input", inputChanged);
input.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    byId("composer").requestSubmit();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && running && !byId("settings").open) running.abort();
});
byId("stop").addEventListener("click", () => {
  running?.abort();
  input.focus();
});
byId("new-chat").addEventListener("click", () => {
  running?.abort();
  conversation = [];
  log.replaceChildren();
  byId("welcome").hidden = false;
  input.focus();
});

// ---- start ----------------------------------------------------------------------------------------------------

for (const text of SUGGESTIONS) {
  byId("suggestions").append(button(text, () => {
    if (!running) send(text);
  }));
}
showSettings();
stateChanged();
try {
  const { model, defaults: named } = await (await fetch("/health")).json();
  defaults = named;
  const size = model.parameters >= 1e6 ? `${(model.parameters / 1e6).toFixed(0)}M` : `${Math.ceil(model.parameters / 1e3)}K`;
  byId("model").textContent = `${model.stage}/${model.tag}, step ${model.step}, ${size} parameters`;
  showSettings();
} catch {
  byId("model").textContent = "the server cannot be reached";
}
