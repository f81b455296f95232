// A panel beside the conversation, and a sheet over it where there is no room beside.

import { button, element } from "./dom.js";

/**
 * @param {HTMLElement} root
 * @param {HTMLElement} opener
 * @param {(open: boolean) => void} set
 */
export function createPanel(root, opener, set) {
  const head = element("div", "head");
  const close = button("×", () => leave(), "Close the panel");
  head.append(element("h2", "", "Figures"), close);
  const figures = element("div", "figures");
  const cards = element("div");
  const watch = element("a", "", "Watch it learn");
  watch.href = "/train";
  const link = element("p");
  link.append(watch);
  root.replaceChildren(head, figures, element("h2", "", "The model"), cards, link);

  function leave() {
    set(false);
    opener.focus();
  }

  opener.hidden = false;
  opener.addEventListener("click", () => {
    const open = opener.getAttribute("aria-expanded") !== "true";
    set(open);
    if (open) close.focus();
  });
  root.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    event.stopPropagation(); // it closes this, and stops no answer
    leave();
  });

  return {
    figures,
    cards,

    /**
     * @param {boolean} open
     * @param {boolean} trainings whether this server shows them
     */
    show(open, trainings) {
      root.hidden = !open;
      opener.setAttribute("aria-expanded", String(open));
      link.hidden = !trainings;
    },
  };
}
