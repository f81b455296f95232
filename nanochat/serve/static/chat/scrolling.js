// The end of a growing text stays in sight, unless the person has gone up to read, or holds on to a place in it.

import { button, element } from "./dom.js";

const NEAR = 48; // px from the end that count as the end
const GLIDE = 400; // ms in which a smooth scroll that was under way may still come to an end
const UP = ["ArrowUp", "PageUp", "Home"];

/**
 * @param {HTMLElement} scroller what scrolls
 * @param {HTMLElement} content what grows in it
 */
export function createScrolling(scroller, content) {
  let following = true;
  let held = false; // a finger or a mouse button is down
  let selected = false; // text in it: it stays where it is
  let top = scroller.scrollTop; // as it was seen last
  let arrived = -Infinity; // when the person last asked for the end, and has done nothing since
  const place = element("div", "to-end");
  const down = button("↓", () => toEnd(), "Go to the end");
  down.hidden = true;
  place.append(down);
  scroller.append(place);

  const room = () => scroller.scrollHeight - scroller.clientHeight - scroller.scrollTop;

  /** Looks whether the end has moved. Only between layout and paint, after the person's own scrolling was heard of. */
  function look() {
    if (following && !held && !selected) scroller.scrollTop = scroller.scrollHeight;
    top = scroller.scrollTop; // what a shorter text did to it was nobody's wish
    down.hidden = room() <= NEAR;
  }

  /** Go there, and stay there. */
  function toEnd() {
    const focused = document.activeElement === down;
    following = true;
    selected = held = false;
    arrived = performance.now();
    look();
    if (focused) scroller.focus({ preventScroll: true });
  }

  /** The person goes up: known before anything has moved, so that a text that grows at that moment does not win. */
  function leave() {
    arrived = -Infinity;
    if (scroller.scrollTop > 0) following = false;
  }

  scroller.addEventListener("wheel", (event) => event.deltaY < 0 && !event.ctrlKey && leave(), { passive: true });
  document.addEventListener("keydown", (event) => {
    const { target, key } = event;
    const here = target === document.body || (target instanceof Element && scroller.contains(target));
    const typing = target instanceof Element && target.matches("textarea, input, select");
    if (here && !typing && (UP.includes(key) || (key === " " && event.shiftKey))) leave();
  });
  scroller.addEventListener("scroll", () => {
    const now = scroller.scrollTop;
    if (now < top - 0.5) {
      if (performance.now() < arrived + GLIDE) return look(); // of the way up that the person has given up
      following = false; // also by the scrollbar, a finger, or a search in the page
    } else if (now > top && room() <= NEAR) {
      following = true;
    }
    top = now;
    down.hidden = room() <= NEAR;
  });
  scroller.addEventListener("pointerdown", (event) => {
    held = !place.contains(/** @type {globalThis.Node} */ (event.target));
    if (held) arrived = -Infinity;
  });
  const release = () => {
    if (!held) return;
    held = false;
    requestAnimationFrame(look);
  };
  for (const event of ["pointerup", "pointercancel", "blur"]) window.addEventListener(event, release);
  window.addEventListener("pointermove", (event) => event.buttons === 0 && release()); // after a drag of the scrollbar
  document.addEventListener("selectionchange", () => {
    const selection = getSelection();
    const before = selected;
    selected = Boolean(selection && !selection.isCollapsed && content.contains(selection.anchorNode));
    if (before && !selected) requestAnimationFrame(look);
  });
  const observer = new ResizeObserver(look);
  observer.observe(content);
  observer.observe(scroller);

  return { toEnd };
}
