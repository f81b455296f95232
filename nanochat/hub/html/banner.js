// How it stands with the model, where that is worth a line; and what just happened.

import { button, element } from "../../serve/static/chat/dom.js";

/**
 * @param {HTMLElement} root
 * @param {() => void} dismiss
 */
export function createBanner(root, dismiss) {
  const unpacking = element("p", "note", "Unpacking the model ");
  const progress = element("progress");
  const percent = element("span");
  progress.setAttribute("aria-label", "Unpacking the model");
  percent.setAttribute("aria-hidden", "true"); // it changes often, and is read from the bar on a wish
  unpacking.append(progress, " ", percent);
  let told = "";

  /**
   * @param {{share: number | null, problem: string, notice: string}} shown share: of the model that is unpacked; null: all
   */
  return ({ share, problem, notice }) => {
    if (share !== null) {
      progress.value = share;
      percent.textContent = `${Math.round(100 * share)}%`;
    }
    const now = JSON.stringify([share === null, problem, notice]);
    if (now === told) return; // nothing to announce
    told = now;
    const lines = share === null || problem ? [] : [unpacking];
    if (problem) lines.push(element("p", "note bad", problem));
    if (notice) {
      const line = element("p", "note", notice);
      line.append(" ", button("×", dismiss, "Dismiss"));
      lines.push(line);
    }
    root.replaceChildren(...lines);
  };
}
