"""Conversations as trees, in a real browser: what holds whatever is done to them, in one tab or in two."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import FastAPI

from nanochat.serve import ModelInfo, create_app
from tests.serve import empty_page
from tests.serve.empty_page import with_empty_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

BEGIN = """
const tree = await import("/static/chat/tree.js");
let time = 1000;
const node = (id, parent, role, text, more = {}) =>
  ({ id, parent, role, parts: text ? [{ type: "text", text }] : [], time: time++, ...more });
const added = (c, one) => tree.withLeaf(tree.withNode(c, one), one.id);
const grown = (...nodes) => nodes.reduce(added, tree.newConversation());
const ids = (nodes) => nodes.map((one) => one.id).join(" ");
"""


@pytest.fixture
def page(browser: Browser, scripted: Any, info: ModelInfo, served: Callable[[FastAPI], str]) -> Iterator[Page]:
    """An empty page of the server."""
    app = with_empty_page(create_app(scripted(lambda request: []), info))
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{served(app)}/empty")
    yield page
    context.close()


def run(page: Page, script: str) -> Any:
    return empty_page.run(page, BEGIN + script)


def test_branches(page: Page) -> None:
    run(
        page,
        """
        check(/^[0-9a-f]{32}$/.test(tree.newId()) && tree.newId() !== tree.newId(), "ids");
        let c = grown(node("q", null, "user", "hi"), node("a", "q", "assistant", "one"), node("b", "a", "user", "more"),
          node("c", "b", "assistant", "two"), node("a2", "q", "assistant", "another"));
        same(ids(tree.path(c)), "q a2", "the new answer is shown");
        same(ids(tree.siblings(c, c.nodes.a2)), "a a2", "oldest first");
        c = tree.chosen(c, "a");
        same(ids(tree.path(c)), "q a b c", "down to the end");
        same(ids(tree.path(c, "a")), "q a", "to any node");
        const edited = tree.withNode(c, node("b2", "a", "user", "other"));
        same(ids(tree.siblings(edited, edited.nodes.b)), "b b2", "both questions stand");
        same(ids(tree.path(tree.chosen(tree.withLeaf(edited, "a2"), "a"))), "q a b2", "the newest end");
        same(ids(tree.path(tree.without(c, "b"))), "q a", "above what went");
        same(ids(tree.path(tree.without(c, "a"))), "q a2", "beside what went");
        same(tree.without(c, "q").leaf, null, "nothing is left");
        same(tree.without(c, "nope"), c, "no such node");
        same(tree.siblings(c, node("new", null, "user", "")).length, 1, "first questions are siblings, too");
        """,
    )


def test_titles_and_messages(page: Page) -> None:
    run(
        page,
        r"""
        const titled = (text) => tree.titleOf(grown(node("q", null, "user", text)));
        same(tree.titleOf(tree.newConversation()), "New chat", "nothing said");
        same(titled("  who\n\n are\t you? "), "who are you?", "white space");
        same(titled(" \n "), "New chat", "only white space");
        const long = titled("word ".repeat(100000));
        check(long.length <= 61 && long.endsWith("word…"), long);
        check(titled("🙂".repeat(80)).isWellFormed(), "no half character");
        check(Array.from(titled("x".repeat(80))).length === 61, "one long word");
        const c = grown(node("q", null, "user", "hi"));
        same(tree.titleOf(tree.withTitle(c, " Mine ")), "Mine", "a name");
        same(tree.titleOf(tree.withTitle(tree.withTitle(c, "Mine"), "  ")), "hi", "and back");

        const python = [{ type: "python", text: "6*7" }, { type: "python_output", text: "42" }];
        const tool = { ...node("a", "q", "assistant", ""), parts: python };
        const [asked, more] = [node("q", null, "user", "?"), node("r", "a", "user", "!")];
        same(tree.messagesFor(grown(asked, tool, more)),
          [["user", "?"], ["assistant", python], ["user", "!"]].map(([role, content]) => ({ role, content })), "all");
        const silent = grown(asked, node("a", "q", "assistant", ""), more);
        same(tree.messagesFor(silent), [{ role: "user", content: "!" }], "a question without an answer");
        same(tree.messagesFor(silent, "a").length, 2, "an answer that has only begun is gone on with");
        same(tree.partsOf([[1, "It ", "text", 0.5], [2, "", "text", 0.5], [3, "is", "text", 1],
          [9, "<|x|>", "special", 1], [4, "1", "python", 1], [9, "", "special", 1], [5, "2", "python", 1],
          [9, "", "special", 1],
          [6, "3", "python_output", null], [9, "", "special", null], [7, "so", "text", 1]]),
          [["text", "It is"], ["python", "1"], ["python", "2"], ["python_output", "3"], ["text", "so"]]
            .map(([type, text]) => ({ type, text })), "tokens");
        """,
    )


def test_two_tabs_have_one_conversation(page: Page) -> None:
    run(
        page,
        """
        const both = (a, b) => {
          same(tree.merged(a, b), tree.merged(b, a), "in either order");
          return tree.merged(a, b);
        };
        const c = grown(node("q", null, "user", "hi"), node("a", "q", "assistant", "one"));
        const here = tree.withLeaf(tree.withNode(c, node("h", "a", "user", "here")), "h");
        let there = tree.withNode(tree.withTitle(c, "Named"), node("t", "a", "user", "there"));
        there = { ...there, changed: here.changed + 5, later: 1 };
        const m = both(here, there);
        same(Object.keys(m.nodes).sort().join(" "), "a h q t", "the messages of both");
        same([m.title, m.leaf, m.later], ["Named", "a", 1], "the newer state's end, the given name, unknown fields");
        const old = tree.withTitle(c, "Old");
        same(both(old, { ...here, changed: old.changed + 9 }).title, "Old", "a name stays");
        same(both(old, tree.withTitle(old, "")).title, "", "until it is taken back");

        const removed = tree.without(here, "h");
        check(!both(removed, here).nodes.h, "what was removed stays away");
        const late = tree.withLeaf(tree.withNode(here, node("below", "h", "assistant", "late")), "below");
        same(ids(tree.path(both(removed, late))), "q a", "with what was said below it meanwhile");

        const begun = { ...c.nodes.a, pending: "run", start: { id: "run" } };
        const tokens = (n) => Array.from({ length: n }, () => [1, "x", "text", 0.5]);
        const said = (n, changed, more = {}) => ({ ...c, changed, nodes: { ...c.nodes,
          a: { ...begun, tokens: tokens(n), parts: [{ type: "text", text: "x".repeat(n) }], changed, ...more } } });
        same(both(said(9, 5), said(4, 6)).nodes.a.tokens.length, 9, "who has read more");
        const ended = { pending: undefined, end: { finish: "stop" } };
        const rated = both(said(9, 5, ended), said(4, 6, { rating: "good" })).nodes.a;
        same([rated.tokens.length, rated.rating, rated.end.finish], [9, "good", "stop"], "an end");
        check(!("pending" in rated), "it is over");
        const on = both(said(9, 5, ended), said(9, 6, { pending: "next" })).nodes.a;
        same([on.pending, on.end], ["next", undefined], "an answer that is gone on with has no end");
        """,
    )


def test_whatever_is_done_the_tree_holds(page: Page) -> None:
    """Random edits in two tabs that meet from time to time."""
    steps = run(
        page,
        """
        const freeze = (value) => {
          if (!value || typeof value !== "object" || Object.isFrozen(value)) return value;
          Object.values(Object.freeze(value)).forEach(freeze);
          return value;
        };
        let steps = 0;
        for (let seed = 1; seed <= 150; seed++) {
          let state = seed;
          const below = (n) => { // mulberry32
            let t = (state += 0x6d2b79f5);
            t = Math.imul(t ^ (t >>> 15), t | 1);
            t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
            return ((t ^ (t >>> 14)) >>> 0) % n;
          };
          let clock = 1;
          const start = freeze(tree.newConversation());
          const tabs = [start, start];
          for (let step = 0; step < 40; step++, steps++) {
            const which = below(2);
            let c = tabs[which];
            const known = Object.keys(c.nodes);
            const any = () => known[below(known.length)];
            const act = known.length === 0 ? 0 : below(12);
            const size = known.length;
            if (act < 6) {
              const id = tree.newId();
              const parent = known.length && below(8) ? any() : null;
              c = added(c, { ...node(id, parent, below(2) ? "user" : "assistant", "t"), time: clock++ });
              same(Object.keys(c.nodes).length, size + 1, "one more");
            } else if (act < 8) {
              const id = any();
              c = tree.chosen(c, id);
              check(tree.path(c).some((one) => one.id === id), "what is chosen is shown");
              check(!Object.values(c.nodes).some((one) => one.parent === c.leaf), "to its end");
            } else if (act < 9) {
              const id = any();
              c = tree.without(c, id);
              check(Object.keys(c.nodes).length < size && !(id in c.nodes), "it is gone");
            } else if (act < 10) {
              const id = any();
              const more = { ...c.nodes[id], rating: "good" };
              c = tree.withNode(c, more);
              same(c.nodes[id].rating, "good", "replaced");
              same(Object.keys(c.nodes).length, size, "and not added");
            } else {
              const other = tabs[1 - which];
              const m = tree.merged(other, c);
              same(tree.merged(m, m), m, "with itself");
              same(tree.merged(tree.merged(other, c), c), m, "once is enough");
              const gone = new Set(m.removed ?? []);
              const union = { ...c, nodes: { ...other.nodes, ...c.nodes } };
              for (const id of [...Object.keys(c.nodes), ...Object.keys(other.nodes)]) {
                const doomed = tree.path(union, id).some((one) => gone.has(one.id));
                check(doomed !== id in m.nodes, "no message is lost or comes back");
              }
              c = m;
            }
            tabs[which] = freeze(c);
            for (const one of Object.values(c.nodes)) check(one.parent === null || one.parent in c.nodes, "no orphan");
            check(c.leaf === null ? Object.keys(c.nodes).length === 0 : c.leaf in c.nodes, "the end is a message");
            const shown = tree.path(c);
            same(shown.at(-1)?.id ?? null, c.leaf, "shown to its end");
            check(shown.every((one, n) => one.parent === (shown[n - 1]?.id ?? null)), "each below the one before");
            for (const one of shown) check(tree.siblings(c, one).includes(one), "it is its own sibling");
          }
        }
        return steps;
        """,
    )
    assert steps == 6000


def test_a_broken_tree_is_still_shown(page: Page) -> None:
    run(
        page,
        """
        const round = grown(node("a", "b", "user", "x"), node("b", "a", "assistant", "y"));
        same(ids(tree.path(round)), "a b", "a circle ends");
        same(Object.keys(tree.without(round, "a").nodes).length, 0, "and can go");
        same(tree.path(tree.withLeaf(round, "constructor")).length, 0, "no name of JavaScript's is a message");
        same(tree.path(tree.withLeaf(round, "nope")).length, 0, "an end that is not there");
        let long = tree.newConversation();
        const nodes = {};
        for (let n = 0; n < 20000; n++) nodes[`n${n}`] = node(`n${n}`, n ? `n${n - 1}` : null, "user", "x");
        long = { ...long, nodes, leaf: "n19999" };
        same(tree.path(long).length, 20000, "a deep one");
        same(tree.without(long, "n1").leaf, "n0", "a deep one goes");
        """,
    )
