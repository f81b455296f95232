"""Conversations that last, in a real browser: kept by several tabs at once, exported, imported, refused, full."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import FastAPI

from nanochat.conversation import Conversation
from nanochat.serve import ModelInfo, conversation_file, create_app
from tests.serve import empty_page
from tests.serve.empty_page import with_empty_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

BEGIN = """
const [tree, { openDatabase, StorageFull }, transfer] =
  await Promise.all(["tree", "database", "transfer"].map((name) => import(`/static/chat/${name}.js`)));
window.heard ??= [];
window.database ??= await openDatabase((id) => heard.push(id));
const database = window.database;
const said = (c, role, text, more = {}) => {
  const node = { id: tree.newId(), parent: c.leaf, role, parts: [{ type: "text", text }], time: Date.now(), ...more };
  return tree.withLeaf(tree.withNode(c, node), node.id);
};
const talk = (...all) =>
  all.reduce((c, text, n) => said(c, n % 2 ? "assistant" : "user", text), tree.newConversation());
const texts = (c) => tree.path(c).map((node) => tree.wordsOf(node)).join(" | ");
const file = (text, name = "chats.json") => new File([text], name, { lastModified: 1e12 });
const take = (text) => transfer.importFile(database, file(text));
const listed = async () => (await database.list()).map((one) => one.title);
const raw = (act) => new Promise((resolve, reject) => {
  const asked = indexedDB.open("nanochat");
  asked.onsuccess = () => {
    const transaction = asked.result.transaction([...asked.result.objectStoreNames], "readwrite");
    act((name) => transaction.objectStore(name));
    transaction.oncomplete = () => { asked.result.close(); resolve(); };
    transaction.onabort = () => reject(transaction.error);
  };
});
"""


def run(page: Page, script: str, argument: Any = None) -> Any:
    return empty_page.run(page, BEGIN + script, argument)


@pytest.fixture
def address(scripted: Any, info: ModelInfo, served: Callable[[FastAPI], str]) -> str:
    return served(with_empty_page(create_app(scripted(lambda request: []), info))) + "/empty"


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context()
    context.set_default_timeout(15_000)
    yield context
    context.close()


@pytest.fixture
def tab(context: BrowserContext, address: str) -> Callable[[], Page]:
    def opened() -> Page:
        page = context.new_page()
        page.goto(address)
        return page

    return opened


def test_what_was_said_is_there_after_a_reload(tab: Callable[[], Page]) -> None:
    page = tab()
    run(
        page,
        """
        same([await listed(), database.problem], [[], ""], "nothing yet");
        await database.put(talk("who are you?", "nanochat"));
        await new Promise((resolve) => setTimeout(resolve, 5));
        await database.put(tree.withTitle(talk("and <b>you</b>?"), "Second \\ud800 \\u202e 🙂"));
        """,
    )
    page.reload()
    run(
        page,
        """
        same(await listed(), ["Second \\ud800 \\u202e 🙂", "who are you?"], "newest first");
        const [, { id }] = await database.list();
        same(texts(await database.get(id)), "who are you? | nanochat", "all of it");
        await database.put(tree.withTitle(await database.get(id), "Renamed"));
        same((await listed())[1], "Renamed", "a name does not make it newer");
        same(await database.get(tree.newId()), undefined, "no such thing");
        """,
    )


def test_two_tabs_write_one_conversation(tab: Callable[[], Page]) -> None:
    one, other = tab(), tab()
    run(one, "window.c = talk('hi', 'hello'); await database.put(c);")
    run(other, "")
    one_id = run(one, "return c.id")
    run(other, "window.c = await database.get(argument); same(texts(c), 'hi | hello', 'the same');", one_id)
    run(one, "window.c = await database.put(said(c, 'user', 'from one'));")
    other.wait_for_function("id => window.heard.includes(id)", arg=one_id)
    run(
        other,
        """
        const both = await database.put(tree.withTitle(said(c, "user", "from the other"), "Named"));
        same(Object.keys(both.nodes).length, 4, "what the other wrote comes along");
        """,
    )
    run(
        one,
        """
        const both = await database.get(c.id);
        const words = Object.values(both.nodes).map(tree.wordsOf).sort();
        same(words, ["from one", "from the other", "hello", "hi"], "nothing is lost");
        same([both.title, texts(both)], ["Named", "hi | hello | from the other"], "the newer is shown");
        """,
    )


def test_what_was_removed_stays_away(tab: Callable[[], Page]) -> None:
    one, other = tab(), tab()
    run(one, "window.c = talk('hi', 'hello'); await database.put(c); await database.put(talk('keep'));")
    run(other, "window.c = await database.get(argument);", run(one, "return c.id"))
    run(one, "await database.remove(c.id); same(await listed(), ['keep'], 'gone');")
    run(
        other,
        """
        same(await database.put(said(c, "user", "late")), null, "it is told");
        database.soon(said(c, "user", "later"));
        await database.flush();
        same(await listed(), ["keep"], "an older state does not bring it back");
        same(await database.search("late"), [], "nor its words");
        """,
    )
    run(
        one,
        """
        database.soon(said(c, "assistant", "an answer that was on its way"));
        same(await listed(), ["keep"], "nor what still grows");
        same(texts(await database.restore(c.id)), "hi | hello", "undone");
        same((await listed()).sort(), ["hi", "keep"], "it is back");
        same(await database.restore(c.id), null, "once");
        await database.remove(c.id);
        """,
    )
    one.reload()
    run(
        one,
        """
        same(await listed(), ["keep"], "final");
        const [{ id }] = await database.list();
        const words = JSON.stringify(await database.get(id));
        await raw((store) => store("gone").put({ id: tree.newId(), at: 5 }));
        check(!words.includes("hello"), words);
        """,
    )
    one.reload()
    run(
        one,
        """
        same(await database.list().then((all) => all.length), 1, "still one");
        const kept = await new Promise((resolve) => raw((store) => {
          store("gone").getAll().onsuccess = (event) => resolve(event.target.result);
        }));
        same(kept.length, 1, "what was removed long ago is forgotten: " + JSON.stringify(kept));
        """,
    )


def test_what_grows_is_written_soon_and_when_the_page_is_closed(tab: Callable[[], Page]) -> None:
    page = tab()
    run(page, "window.c = talk('tell', 'o'); await database.put(c);")
    run(
        page,
        """
        const written = (n) => [{ type: "text", text: "on ".repeat(n) }];
        window.grown = (n) => tree.withNode(c, { ...c.nodes[c.leaf], parts: written(n) });
        let writes = 0;
        const put = IDBObjectStore.prototype.put;
        IDBObjectStore.prototype.put = function (value) {
          writes += this.name === "conversations";
          return put.call(this, value);
        };
        for (let n = 1; n <= 200; n++) database.soon(c = grown(n));
        same(writes, 0, "not each");
        same(await database.search("on on"), [c.id], "but it is known");
        while (writes === 0) await new Promise((resolve) => setTimeout(resolve, 20));
        same(writes, 1, "all at once");
        addEventListener("beforeunload", () => database.soon(grown(300)));
        """,
    )
    page.reload()
    run(
        page,
        """
        const [{ id }] = await database.list();
        same(tree.wordsOf(tree.path(await database.get(id))[1]).length, 900, "to the last word");
        """,
    )


def test_what_cannot_be_read_is_left_and_told(tab: Callable[[], Page]) -> None:
    page = tab()
    run(
        page,
        """
        window.c = talk("hi", "hello");
        await database.put(c);
        await database.put(talk("broken later"));
        const [bad] = (await database.list()).filter((one) => one.title === "broken later");
        await raw((store) => {
          store("conversations").put({ id: bad.id, version: 1, nodes: 5 });
          store("conversations").put({ ...c, id: tree.newId(), version: 2, title: "of tomorrow" });
          store("conversations").put({ ...c, id: tree.newId(), title: "not listed", extra: { of: "tomorrow" } });
          store("summaries").put({ id: "odd", title: 5 });
        });
        """,
    )
    page.reload()
    run(
        page,
        """
        const exported = JSON.parse(await (await transfer.exportAll(database)).text()).conversations;
        same(exported.map((one) => one.title || tree.titleOf(one)).sort(), ["hi", "not listed"], "what can be read");
        same(exported.find((one) => one.title).extra, { of: "tomorrow" }, "with what is unknown here");
        same((await listed()).sort(), ["hi", "not listed"], "the list");
        same(database.broken, 2, "the others are told");
        let left = 0;
        await raw((store) => { store("conversations").count().onsuccess = (event) => (left = event.target.result); });
        same(left, 4, "and stay where they are");
        """,
    )


@pytest.mark.parametrize(
    "refusal",
    [
        "Object.defineProperty(window, 'indexedDB', { value: undefined })",
        "Object.defineProperty(window, 'indexedDB', { get() { throw new DOMException('no', 'SecurityError'); } })",
        "IDBFactory.prototype.open = () => { throw new DOMException('no', 'InvalidStateError'); }",
        """IDBFactory.prototype.open = () => {
             const asked = { error: new DOMException('no', 'UnknownError') };
             setTimeout(() => asked.onerror());
             return asked;
           }""",
    ],
)
def test_where_storage_is_refused_the_page_still_works(context: BrowserContext, address: str, refusal: str) -> None:
    context.add_init_script(refusal + "; delete window.BroadcastChannel;")
    page = context.new_page()
    page.goto(address)
    run(
        page,
        """
        same(database.problem, "refused", "it says so");
        const c = talk("hi", "hello");
        await database.put(c);
        same([await listed(), texts(await database.get(c.id))], [["hi"], "hi | hello"], "kept as long as the page");
        same(await database.search("HELLO"), [c.id], "found");
        database.soon(said(c, "user", "more"));
        same(texts(await database.get(c.id)), "hi | hello | more", "what grows");
        const all = await (await transfer.exportAll(database)).text();
        await database.remove(c.id);
        same([await database.put(c), await listed()], [null, []], "removed");
        same((await take(all)).added, 1, "and brought back");
        same([await listed(), database.problem], [["hi"], "refused"], "there it is");
        """,
    )


def test_a_database_of_a_later_version_is_left_alone(tab: Callable[[], Page]) -> None:
    page = tab()
    run(page, "await database.put(talk('hi'));")
    run(
        page,
        """
        await new Promise((resolve, reject) => { // while this page has it open
          const asked = indexedDB.open("nanochat", 7);
          asked.onupgradeneeded = () => asked.result.createObjectStore("tomorrow");
          asked.onsuccess = () => { asked.result.close(); resolve(); };
          asked.onblocked = asked.onerror = () => reject(new Error("blocked"));
        });
        const c = talk("in between");
        await database.put(c);
        same([database.problem, await listed()], ["later", ["in between"]], "it says so, and goes on");
        """,
    )
    page.reload()
    run(
        page,
        """
        same([database.problem, await listed()], ["later", []], "it says so");
        const c = talk("meanwhile");
        await database.put(c);
        same(texts(await database.get(c.id)), "meanwhile", "it works");
        const kept = await new Promise((resolve) => {
          const asked = indexedDB.open("nanochat");
          asked.onsuccess = () => resolve([asked.result.version, [...asked.result.objectStoreNames]]);
        });
        same(kept, [7, ["conversations", "gone", "late", "summaries", "texts", "tomorrow"]], "untouched");
        """,
    )


def test_a_full_storage_is_said_and_nothing_on_the_screen_is_lost(tab: Callable[[], Page]) -> None:
    page = tab()
    run(
        page,
        """
        const before = talk("before");
        await database.put(before);
        const put = IDBObjectStore.prototype.put;
        IDBObjectStore.prototype.put = () => { throw new DOMException("no room", "QuotaExceededError"); };
        const c = talk("no room", "for this");
        let refused = null;
        await database.put(c).catch((error) => (refused = error));
        check(refused instanceof StorageFull && database.problem === "full", "it says so");
        same((await listed()).sort(), ["before", "no room"], "it is there");
        same(texts(await database.get(c.id)), "no room | for this", "all of it");
        database.soon(said(c, "user", "more"));
        await database.flush();
        same(texts(await database.get(c.id)), "no room | for this | more", "what grows, too");
        const answer = await take(JSON.stringify({ messages: [{ role: "user", content: "x" }] }));
        check(answer.problems[0].includes("no room left"), answer.problems[0]);
        same((await listed()).length, 2, "nothing half-imported");
        await database.remove(before.id); // which also has to work when nothing more can be written
        same(await listed(), ["no room"], "removed");
        IDBObjectStore.prototype.put = put;
        await database.put(talk("room again"));
        same(database.problem, "", "it is over");
        """,
    )
    page.reload()
    run(page, "same((await listed()).sort(), ['no room', 'room again'], 'what had no room was written then');")


def test_a_transaction_that_fails_at_its_end_is_full_too(tab: Callable[[], Page]) -> None:
    """As browsers do it: the request succeeds, and the transaction is given up with QuotaExceededError."""
    run(
        tab(),
        """
        const put = IDBObjectStore.prototype.put;
        IDBObjectStore.prototype.put = function (value) {
          const asked = put.call(this, value);
          const error = new DOMException("no room", "QuotaExceededError");
          Object.defineProperty(this.transaction, "error", { value: error });
          asked.addEventListener("success", () => this.transaction.abort());
          return asked;
        };
        let refused = null;
        const c = talk("hi");
        await database.put(c).catch((error) => (refused = error));
        check(refused instanceof StorageFull && database.problem === "full", `${refused} ${database.problem}`);
        same(await listed(), ["hi"], "it is there");
        """,
    )


def test_searching_titles_and_all_branches(tab: Callable[[], Page]) -> None:
    run(
        tab(),
        """
        let c = talk("Where is STRASSBURG?", "In the Alsace.");
        const [question] = tree.path(c);
        c = said(tree.withLeaf(c, question.id), "assistant", "Another branch: Ünïcode ﬁne");
        await database.put(c);
        await database.put(tree.withTitle(talk("hello"), "Alsace wine"));
        await database.put(talk("unrelated"));
        const found = async (text) => (await database.search(text)).length;
        same([await found("alsace"), await found("alsace wine"), await found("strassburg alsace")], [2, 1, 1], "words");
        same([await found("ünïcode fine"), await found("unicorn"), await found(".*")], [1, 0, 0], "branches");
        await database.put(tree.without(c, c.leaf));
        same(await found("branch"), 0, "a branch that is gone");
        """,
    )


def test_export_and_import_make_the_same(browser: Browser, address: str) -> None:
    context = browser.new_context()
    here = context.new_page()
    here.goto(address)
    text = run(
        here,
        """
        let c = talk("hi", "hello \\ud800 <script>");
        c = tree.withNode(c, { ...c.nodes[c.leaf], tokens: [[1, "h", "text", 0.25], [2, "", "special", null]],
          model: "sft/d4/7", start: { id: tree.newId(), model: "sft/d4/7", chat: true, prompt_tokens: 5,
            window: 64, left_out: 0, cut: 0, begun: 0, seed: 3 },
          end: { finish: "stop", error: null, tokens: 2, seconds: 1, first: 0.1 }, settings: { top_k: 5 },
          rating: "good", correction: "x", tomorrow: [1, { a: null }] });
        await database.put({ ...c, tomorrow: true });
        await database.put(tree.withTitle(talk("other"), "Other"));
        return (await transfer.exportAll(database)).text();
        """,
    )
    context.close()
    context = browser.new_context()
    there = context.new_page()
    there.goto(address)
    again = run(
        there,
        """
        same(await take(argument), { added: 2, changed: 0, problems: [] }, "new");
        same(await take(argument), { added: 0, changed: 0, problems: [] }, "the same once more");
        const [{ id }] = (await database.list()).filter((one) => one.title === "hi");
        await database.put(said(await database.get(id), "user", "gone on here"));
        same(await take(argument), { added: 0, changed: 0, problems: [] }, "older: nothing new");
        same(texts(await database.get(id)), "hi | hello \\ud800 <script> | gone on here", "what was said since stays");
        await database.remove(id);
        same(await take(argument), { added: 1, changed: 0, problems: [] }, "what was removed comes back");
        return (await transfer.exportAll(database)).text();
        """,
        text,
    )

    def found(exported: str) -> dict[str, Any]:
        return {one["id"]: one for one in json.loads(exported)["conversations"]}

    assert found(again) == found(text)
    context.close()


def test_what_else_can_be_imported(tab: Callable[[], Page], tmp_path: Path) -> None:
    saved = tmp_path / "chat.json"
    told = {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "6*7? 🙂"},
            {
                "role": "assistant",
                "content": [{"type": "python", "text": "6*7"}, {"type": "python_output", "text": "42"}],
            },
        ]
    }
    conversation_file.save(Conversation.from_dict(told), saved)
    lines = "\n".join(json.dumps({"messages": [{"role": "user", "content": f"n{n}"}], "other": 1}) for n in range(3))
    run(
        tab(),
        """
        const [saved, lines] = argument;
        same(await take(saved), { added: 1, changed: 0, problems: [] }, "what /save wrote");
        same(await take("\\ufeff" + saved), { added: 0, changed: 0, problems: [] }, "twice makes nothing twice");
        const [{ id }] = await database.list();
        const c = await database.get(id);
        const parts = [["python", "6*7"], ["python_output", "42"]].map(([type, text]) => ({ type, text }));
        same([c.system, tree.path(c)[1].parts], ["Be brief.", parts], "all of it");
        const odd = lines.replaceAll("\\n", "\\r\\n\\r\\n") + "\\r\\n";
        same(await take(odd), { added: 3, changed: 0, problems: [] }, "lines");
        same((await listed()).filter((one) => one[0] === "n"), ["n0", "n1", "n2"], "in their order");
        """,
        [saved.read_text(), lines],
    )


CONVERSATION = {
    "version": 1,
    "id": "0" * 32,
    "title": "",
    "named": False,
    "system": "",
    "mode": "chat",
    "created": 1,
    "changed": 1,
    "leaf": "a" * 32,
    "nodes": {"a" * 32: {"id": "a" * 32, "parent": None, "role": "user", "parts": [], "time": 1}},
}


def other(node: dict[str, Any] | None = None, **more: Any) -> str:
    """A file with a good conversation, and one that is changed."""
    changed = {**CONVERSATION, "id": "1" * 32, **more}
    if node is not None:
        changed["nodes"] = {"a" * 32: {**CONVERSATION["nodes"]["a" * 32], **node}}  # type: ignore[index]
    return json.dumps({"nanochat": 1, "conversations": [CONVERSATION, changed]})


def test_odd_files_say_what_is_wrong_and_change_nothing(tab: Callable[[], Page]) -> None:
    cases = [
        ("", "the file is empty"),
        ("hello", "the file is not JSON"),
        ('{"messages": []}', "it has no list of messages"),
        ("[1, 2]", "it has no list of messages"),
        ('{"messages": [{"role": "user", "content": "x"}]}\n{oops', "line 2 is not JSON"),
        ('{"messages": [{"role": "assistant", "content": "x"}]}', "message 1 is not from the user"),
        ('{"messages": [{"role": "user", "content": [{"type": "image", "text": "x"}]}]}', "a part of an unknown type"),
        ('{"messages": [{"role": "system", "content": "x"}]}', "it has no user message"),
        ('{"nanochat": 2, "conversations": []}', "the file is of version 2"),
        ('{"nanochat": 1, "conversations": {}}', "its conversations are no list"),
        ('{"nanochat": 1, "conversations": []}', "there is no conversation"),
        (other(version=2), "it is of version 2"),
        (other(id="../../x"), "its id is not"),
        (other(id="__proto__"), "its id is not"),
        (other(title=5), "its title is not text"),
        (other(mode="x"), "its mode"),
        (other(changed=None), "its times"),
        (other(nodes=[]), "it has no messages"),
        (other(nodes={"__proto__": {}}), "the id of a message"),
        (other({"id": "b" * 32}), "does not bear its own id"),
        (other({"role": "system"}), "its role"),
        (other({"parts": "x"}), "no list of parts"),
        (other({"parts": [{"type": "html", "text": "x"}]}), "a part has an unknown type"),
        (other({"parts": [{"type": "text", "text": 5}]}), "or no text"),
        (other({"parent": "a" * 32}), "answers itself"),
        (other({"parent": "b" * 32}), "answers one that is missing"),
        (other({"tokens": [["1", "x", "text", 1]]}), "a token is not"),
        (other({"tokens": [[1, "x", "text", 2]]}), "a token is not"),
        (other({"end": {"finish": 1}}), "how it ended"),
        (other({"rating": "fine"}), "its rating"),
        (other({"settings": {"top_k": "5"}}), "its settings"),
        (other({"start": {"id": "x", "model": "m", "window": "<b>"}}), "the figures of its beginning"),
        (other({"time": -1}), "its times"),
        (other(extra=0).replace('"extra": 0', '"extra": ' + "[" * 50_000 + "]" * 50_000), "nested too deeply"),
    ]
    run(
        tab(),
        """
        for (const [text, sentence] of argument) {
          const { added, changed, problems } = await take(text);
          same([added, changed, await listed()], [0, 0, []], `${sentence}: nothing was imported`);
          check(problems.join(" ").includes(sentence), `${sentence}: ${problems.join(" ")}`);
          check(problems.join(" ").includes("Nothing was imported"), problems.join(" "));
        }
        check({}.id === undefined, "no prototype is changed");
        """,
        cases,
    )


@pytest.mark.slow
def test_large_and_binary_files(tab: Callable[[], Page]) -> None:
    run(
        tab(),
        """
        const big = await transfer.importFile(database, { size: 51e6, name: "big.json" });
        same(big.problems, ["big.json has 51 MB, and at most 50 MB can be imported at once."], "too big");
        const odd = await transfer.importFile(database, new File([new Uint8Array([0x50, 0x4b, 0xff, 0xfe])], "a.zip"));
        check(odd.problems[0].includes("a.zip is no text in UTF-8"), odd.problems[0]);
        const told = JSON.stringify({ messages: [{ role: "user", content: "long ago" }] });
        same((await transfer.importFile(database, new File([told], "old", { lastModified: 0 }))).added, 1, "of 1970");
        const [{ id }] = await database.list();
        same(texts(await database.get(id)), "long ago", "can be read");
        const line = (n) => JSON.stringify({ messages: [{ role: "user", content: `${n} ${"word ".repeat(2000)}` }] });
        const lines = Array.from({ length: 4000 }, (_, n) => line(n)).join("\\n");
        check(lines.length > 39e6, "as large as may be");
        same(await take(lines), { added: 4000, changed: 0, problems: [] }, "large");
        same((await database.search("3999 word")).length, 1, "and found");
        """,
    )
