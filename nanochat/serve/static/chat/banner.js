// How it stands with the server, where that is worth a line; and what just happened.

import { button, element } from "./dom.js";

const WORDS = {
  starting: "",
  ready: "",
  ending: "The server is ending. What it has begun it still answers.",
  gone: "The server cannot be reached. Your conversations can be read; this page tries again every few seconds.",
  login: "You are not logged in any more. ",
};

/**
 * @param {HTMLElement} root
 * @param {{look: () => void, dismiss: () => void}} actions
 */
export function createBanner(root, actions) {
  let told = "";

  /**
   * @param {import("./state.js").Server["phase"]} phase
   * @param {string} notice
   */
  return (phase, notice) => {
    if (told === phase + notice) return; // nothing to announce
    told = phase + notice;
    const lines = [];
    if (WORDS[phase]) {
      const line = element("p", phase === "ending" ? "note" : "note bad", WORDS[phase]);
      if (phase === "gone") line.append(" ", button("Try now", actions.look));
      if (phase === "login") {
        const link = element("a", "", "Log in");
        link.href = "/login";
        line.append(link);
      }
      lines.push(line);
    }
    if (notice) {
      const line = element("p", "note", notice);
      line.append(" ", button("×", actions.dismiss, "Dismiss"));
      lines.push(line);
    }
    root.replaceChildren(...lines);
  };
}
