"""Markdown on the chat page, in a real browser: what it makes of texts, and what it keeps while they grow."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import FastAPI

from nanochat.serve import ModelInfo, create_app
from tests.serve import empty_page
from tests.serve.empty_page import with_empty_page
from tests.serve.markdown_trees import SIMPLE, departs, random_markdown, reference
from tests.serve.xss import PAYLOADS

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

DATA = Path(__file__).parent / "data"
CASES = (DATA / "markdown.txt").read_text("utf-8").split("\n=====\n")
HANGING = json.loads((DATA / "hanging.json").read_text())  # what is repeated to make a text that takes long
BEGIN = """
const { parse } = await import("/static/chat/markdown_parse.js");
const { createMarkdown } = await import("/static/chat/markdown.js");
const shown = (text, streaming) => {
  const view = createMarkdown();
  view.show(text, streaming);
  return view.element;
};
"""


@pytest.fixture
def page(browser: Browser, scripted: Any, info: ModelInfo, served: Callable[[FastAPI], str]) -> Iterator[Page]:
    """An empty page of the server."""
    app = with_empty_page(create_app(scripted(lambda request: []), info), "<main></main>")
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(60_000)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    address = served(app)
    page.goto(f"{address}/empty")
    yield page
    context.close()
    assert [url for url in asked if not url.startswith(f"{address}/")] == []


def run(page: Page, script: str, argument: Any = None) -> Any:
    return empty_page.run(page, BEGIN + script, argument)


def random_texts(seed: int, count: int) -> list[str]:
    rng = random.Random(seed)
    return [random_markdown(rng) for _ in range(count)]


def test_trees_are_those_of_commonmark(page: Page) -> None:
    texts = [*CASES, *(text for text in random_texts(7, 3000) if not departs(text))]
    assert len(texts) > 1500
    found = run(page, SIMPLE + "return argument.map((text) => parse(text).map(simple));", texts)
    for text, ours in zip(texts, found, strict=True):
        assert ours == reference(text), text


SHOWN = {
    "- [ ] to do\n- [x] **done**": "ul(li.task(span.box(☐)div(p(to do)))li.task(span.box(☑)div(p(strong(done)))))",
    "see https://a.example/b_c_(d). Or http://": "p(see a[https://a.example/b_c_(d)](https://a.example/b_c_(d)). Or http://)",
    "[https://a.example](https://a.example)": "p(a[https://a.example/](https://a.example))",
    "[bank.example](https://evil.example/x)": "p(a[https://evil.example/x](bank.examplesmall( (evil.example))))",
    "[x](mailto:a@b.example)": "p(a[mailto:a@b.example](x))",
    "![a picture](https://a.example/i.png)": "p(a[https://a.example/i.png].image(a picture))",
    "[no](javascript:alert(1)) [no](/login)": "p([no](javascript:alert(1)) [no](/login))",
    "<img src=x> &lt; &amp;": "p(<img src=x> &lt; &amp;)",
    "|a|\n|-:|\n|1|2|": "div.table(table(tbody(tr(th.right(a))tr(td.right(1)td(2)))))",
    "3. a\n4. b": "ol[3](li(p(a))li(p(b)))",
    "# a\n### b\n###### c": "h3(a)h5(b)h6(c)",
    "```py\nx\n\ny\n```": "div.code(div.head(span.label(py)button(Copy))pre(code(x\n\ny)))",
}  # fmt: skip


def test_what_is_shown(page: Page) -> None:
    script = """
    const told = (node) => node.nodeType === Node.TEXT_NODE ? node.data : node.localName
      + (node.href || node.start > 1 ? `[${node.href ?? node.start}]` : "")
      + (node.className ? `.${node.className}` : "") + `(${[...node.childNodes].map(told).join("")})`;
    return argument.map((text) => [...shown(text).childNodes].map(told).join(""));
    """
    assert dict(zip(SHOWN, run(page, script, list(SHOWN)), strict=True)) == SHOWN


ALLOWED = """
const elements = { p: "", h3: "", h4: "", h5: "", h6: "", em: "", strong: "", s: "", code: "",
  pre: "tabindex role aria-label",
  div: "class tabindex role aria-label", span: "class role aria-label", button: "type aria-label title", hr: "", br: "",
  ul: "", ol: "start", li: "class", blockquote: "", table: "", tbody: "", tr: "", th: "scope class", td: "class",
  a: "href target rel title class", small: "" };
const inspect = (root, text) => {
  let depth = 0;
  for (const one of root.querySelectorAll("*")) {
    const names = elements[one.localName];
    const html = one.namespaceURI === "http://www.w3.org/1999/xhtml";
    check(names !== undefined && html, `<${one.localName}> from ${text}`);
    for (const { name } of one.attributes) {
      check(names.split(" ").includes(name), `${name} of <${one.localName}> from ${text}`);
    }
    if (one.href) check(/^(https?:\\/\\/|mailto:)/.test(one.href) && one.target === "_blank"
      && one.rel === "noopener noreferrer" && one.title === one.href, `${one.href} from ${text}`);
    let above = 0;
    for (let up = one; up !== root; up = up.parentNode) above++;
    depth = Math.max(depth, above);
  }
  return depth;
};
"""


def test_nothing_but_text_comes_of_any_text(page: Page) -> None:
    rng = random.Random(3)
    mixed = ["".join(rng.choices([*PAYLOADS, "\n", "\n\n", "> ", "- ", "`", "*", "["], k=6)) for _ in range(1000)]
    texts = [*PAYLOADS, *mixed, *random_texts(11, 1500)]
    script = """
    for (const text of argument) {
      const root = shown(text);
      document.querySelector("main").replaceChildren(root);
      inspect(root, text);
      const kept = root.textContent + [...root.querySelectorAll("a")].map((a) => unescape(a.title) + a.title).join(" ");
      const plain = text.replace(/\\]\\([^\\n]*\\)/g, "]"); // the title of a link is not shown, its address is a title
      for (const [word] of plain.matchAll(/\\p{L}{2,}/gu)) check(kept.includes(word), `${word} from ${text}`);
    }
    """
    run(page, ALLOWED + script, texts)
    assert page.title() == "empty" and run(page, "return Boolean(window.ran);") is False


@pytest.mark.slow
def test_texts_that_are_meant_to_hang_the_page(page: Page) -> None:
    texts = [pattern * (200_000 // len(pattern)) for pattern in HANGING]
    texts += ["\n".join("  " * depth + "- a" for depth in range(440)), "![" * 20_000 + "](http://b)" * 12_000]
    texts += [
        "*" * 100_000 + "a" + "*" * 100_000,
        " ".join("`" * n for n in range(600)),
        "|a" * 200 + "\n" + "|-" * 200,
    ]
    script = """
    for (const text of argument) {
      const before = performance.now();
      parse(text);
      const whole = performance.now() - before;
      check(whole < 10000, `${whole} ms for ${text.slice(0, 20)}`); // what grows with the square takes minutes
      const part = shown(text.slice(0, 20000));
      check(inspect(part, text.slice(0, 20)) < 100, text.slice(0, 20));
    }
    """
    run(page, ALLOWED + script, texts)


def test_a_text_that_grows_ends_as_if_it_came_at_once(page: Page) -> None:
    script = """
    for (const text of argument) {
      const view = createMarkdown();
      let before = [];
      for (let end = 0; end < text.length; end += 1 + (end % 3)) {
        view.show(text.slice(0, end), true);
        const now = [...view.element.children];
        before.slice(0, -2).forEach((old, at) => check(now[at] === old, `block ${at} of ${text} at ${end}`));
        check(text === "" || view.element.parentNode === null && (view.element.matches(".end") !==
          Boolean(view.element.querySelector(".end"))), `one end: ${text} at ${end}`);
        before = now;
      }
      view.show(text, false);
      check(!view.element.matches(".end") && !view.element.querySelector(".end"), "no end");
      const html = (root) => root.innerHTML.replaceAll(' class=""', "");
      check(html(view.element) === html(shown(text)), `${text}\\n${view.element.innerHTML}\\n${shown(text).innerHTML}`);
      view.show("other\\n\\ntext");
      check(html(view.element) === html(shown("other\\n\\ntext")), "a text that is another one");
    }
    """
    run(page, script, [*CASES, *random_texts(5, 700)])


GROWING = """Some **bold** text, *em* and `code`, ~~gone~~, [a link](https://a.example/x) too.

- one
- two
  1. inner

- [ ] task

## Heading

```python
x = 1
```

| a | b |
|---|---|
| 1 | 2 |

> quote

---

The end."""


def test_marks_are_never_seen_while_a_text_grows(page: Page) -> None:
    script = """
    const view = createMarkdown();
    const seen = new Set();
    for (let end = 0; end <= argument.text.length; end++) {
      view.show(argument.text.slice(0, end), true);
      const text = view.element.textContent;
      for (const mark of ["*", "`", "~", "](", "|", "- ", "#", "---", ">", "[ ", "1.", "https"]) {
        check(!text.includes(mark), `${mark} in ${text} at ${end}`);
      }
      for (const one of view.element.querySelectorAll(argument.elements)) seen.add(one);
    }
    return seen.size;
    """
    found = run(page, script, {"text": GROWING, "elements": "p, strong, em, s, a, li, h4, pre, table, blockquote, hr"})
    assert found == 5 + 2 * 4 + 1 + 1 + 1 + 2 + 1 + 1  # each of them was made once


def test_what_is_selected_stays_selected(page: Page) -> None:
    script = """
    const view = createMarkdown();
    document.querySelector("main").append(view.element);
    let text = "First paragraph.\\n\\n- an item\\n- and";
    view.show(text, true);
    const selection = getSelection();
    const [first, second] = view.element.querySelectorAll("p:first-child, li:last-child p");
    selection.setBaseAndExtent(first.firstChild, 0, second.firstChild, 3);
    const before = selection.toString();
    for (const more of argument) {
      text += more;
      view.show(text, true);
      same(selection.toString(), before, `after ${more}`);
    }
    view.show(text);
    same(selection.toString(), before, "at the end");
    """
    more = [" more", " **and", " bold**\n", "- last\n\n", "| a |\n", "|---|\n| b |\n", "\n```py\nx", "\ny\n"]
    run(page, script, more)


@pytest.mark.parametrize("http", [False, True])
def test_code_is_copied_as_it_is(http: bool, page: Page) -> None:
    """http: where browsers have no clipboard for scripts, as over plain http from another machine."""
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    script = """
    const view = createMarkdown();
    view.show("```\\nif x:\\n\\ty <b>  \\n\\nz\\n```\\n");
    document.querySelector("main").append(view.element);
    if (argument) Object.defineProperty(navigator, "clipboard", { value: undefined, configurable: true });
    """
    run(page, script, http)
    page.get_by_role("button", name="Copy the code").click()
    page.get_by_text("Copied").wait_for()
    page.evaluate("() => delete navigator.clipboard")
    assert page.evaluate("navigator.clipboard.readText()") == "if x:\n\ty <b>  \n\nz"
