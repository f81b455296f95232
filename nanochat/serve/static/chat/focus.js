// Where the keyboard is: one writes, unless something else was chosen.

import { place } from "./dom.js";

/** @param {{focus: () => void}} composer */
export function createFocus(composer) {
  function toComposer() {
    const touched = matchMedia("(pointer: coarse)").matches; // where a keyboard would cover half of the page
    if (touched) place("scroller").focus({ preventScroll: true });
    else composer.focus();
  }

  return {
    toComposer,

    /**
     * A button that goes when it was pressed leaves the focus where one writes.
     * @param {() => void} show
     */
    keep(show) {
      const focused = document.activeElement;
      const within = focused && place("messages").contains(focused);
      show();
      if (within && !(focused.isConnected && focused.checkVisibility())) toComposer();
    },
  };
}
