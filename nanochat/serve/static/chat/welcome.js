// What an empty conversation says.

import { button, element } from "./dom.js";

const CHAT = {
  title: "What would you like to know?",
  about: "A small model of your own answers here. It can be wrong, and it knows only what it has read.",
  suggestions: ["Who are you?", "What is 34 * 12?", "How many r are in strawberry?"],
};
const TEXT = {
  title: "How does the text begin?",
  about: "This is a base model: it has read, and was not trained to chat. It does not answer, it continues a text. Begin one; " +
    "it writes on, and you can change the text and let it go on from there.",
  suggestions: ["Once upon a time", "The capital of France is", "My favourite season is"],
};

/**
 * @param {HTMLElement} root
 * @param {(text: string) => void} send
 * @param {string} [own] what is said of a model that chats, in place of what the server's page says
 */
export function createWelcome(root, send, own) {
  const title = element("h2");
  const about = element("p");
  const suggestions = element("div");
  suggestions.id = "suggestions";
  root.replaceChildren(title, about, suggestions);
  let shown = "";

  /**
   * @param {boolean} open
   * @param {"chat" | "text"} mode
   */
  return (open, mode) => {
    root.hidden = !open;
    if (shown === mode) return;
    shown = mode;
    const words = mode === "chat" ? CHAT : TEXT;
    title.textContent = words.title;
    about.textContent = (mode === "chat" && own) || words.about;
    suggestions.replaceChildren(...words.suggestions.map((text) => button(text, () => send(text))));
  };
}
