// On a narrow window, something at the side is a drawer: a button opens it, and it closes when it is left.

const NARROW = "(max-width: 47.99rem)";

/**
 * @param {HTMLElement} root
 * @param {HTMLElement} opener
 * @param {() => HTMLElement} first what has the focus when it opens
 */
export function createDrawer(root, opener, first) {
  const narrow = matchMedia(NARROW);
  let open = false;

  function show() {
    opener.hidden = !narrow.matches;
    opener.setAttribute("aria-expanded", String(open));
    root.classList.toggle("open", open);
    root.inert = narrow.matches && !open;
    for (const beside of root.parentElement?.children ?? []) {
      if (beside instanceof HTMLElement && beside !== root && beside.tagName !== "DIALOG") beside.inert = open;
    }
  }

  /** @param {boolean} wanted */
  function set(wanted) {
    if (open === (wanted && narrow.matches)) return;
    open = !open;
    show();
    if (open) first().focus();
    else if (narrow.matches) opener.focus();
  }

  opener.addEventListener("click", () => set(!open));
  root.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !open) return;
    event.stopPropagation(); // it stops no answer
    set(false);
  });
  document.addEventListener("pointerdown", (event) => {
    if (open && event.target instanceof Node && !root.contains(event.target)) set(false);
  });
  narrow.addEventListener("change", () => {
    open = false;
    show();
  });
  show();
  return { set };
}
