"""Our modules of JavaScript become one script that does the same; what cannot, is refused with its line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from nanochat.hub.html_script import BundleError, bundle

MODULES = Path(__file__).parents[2] / "nanochat" / "hub" / "html"


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, code in files.items():
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_text(code)
    return folder / next(iter(files))


def test_it_runs(browser: Browser, tmp_path: Path) -> None:
    entry = write(
        tmp_path,
        {
            "main.js": """
// import { nothing } from "./here.js";
import { one, two as zwei } from "./a/a.js";
import {
  count,
  Thing, later,
} from "./b.js";
const said = `import { x } from "./no.js"; ${[1].map((n) => `${n} {`).join("}")} export`;
const odd = /[/"'`]import /.test('"import ') && 4 / 2 / 1 === 2;
/** @type {import("./a/a.js").Type} */
const object = { import: 1, export: 2 };
const last = "a" /* */ + "//b";
globalThis.found = [one(), zwei, count(), count(), new Thing().name, await later(), said, odd, object.import, last];
export { odd as strange };
""",
            "a/a.js": 'import { count } from "../b.js";\nexport const two = 2;\nfunction first() { return count(); }\n'
            "export { first as one };\n",
            "b.js": "let n = 0;\nexport function count() { return ++n; } // export\n"
            "export class Thing { name = 'thing'; }\n"
            "export async function later() { return 'later'; }\nexport function* many() { yield 1; }\n",
        },
    )
    script = bundle(entry)
    assert "@type" not in script and "// import" not in script
    page = browser.new_page()
    page.add_script_tag(content=script)
    page.wait_for_function("() => globalThis.found")
    said = 'import { x } from "./no.js"; 1 { export'
    assert page.evaluate("found") == [1, 2, 2, 3, "thing", "later", said, True, 1, "a//b"]
    page.close()


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ('\nimport all from "./a.js";', "main.js:2: this form of import"),
        ('import * as all from "./a.js";', "main.js:1: this form of import"),
        ('import "./a.js";', "main.js:1: this form of import"),
        ('import { a } from "a";', "main.js:1: this form of import"),
        ("import { a } from './a.js';", "main.js:1: this form of import"),
        ('\n\nconst a = () => import("./a.js");', "main.js:3: this form of import"),
        ("const here = import.meta.url;", "main.js:1: this form of import"),
        ("export default 1;", "main.js:1: this form of export"),
        ('export * from "./a.js";', "main.js:1: this form of export"),
        ('export { a } from "./a.js";', "main.js:1: this form of export"),
        ("export let a = 1;", "main.js:1: this form of export"),
        ("export const { a } = {};", "main.js:1: this form of export"),
        ('/* a\n*/ import { b } from "./a.js";', "main.js:2: a.js does not export b"),
        ('import { a } from "./missing.js";', "missing.js: No such file"),
        ("const a = `never\nends", "main.js:1: a template does not end"),
        ('const a = "</script>";', "a page cannot hold a script with </script"),
        ('const a = "<!--";', "a page cannot hold a script with <!--"),
    ],
)
def test_what_is_refused(tmp_path: Path, code: str, problem: str) -> None:
    entry = write(tmp_path, {"main.js": code, "a.js": "export const a = 1;\n"})
    with pytest.raises(BundleError) as raised:
        bundle(entry)
    assert problem in str(raised.value)


def test_circles(tmp_path: Path) -> None:
    files = {f"{a}.js": f'import {{ {b} }} from "./{b}.js";\nexport const {a} = 1;\n' for a, b in ("ab", "bc", "ca")}
    with pytest.raises(BundleError, match="in a circle: a.js -> b.js -> c.js -> a.js"):
        bundle(write(tmp_path, files))


def test_only_the_first_waits(tmp_path: Path) -> None:
    files = {"main.js": 'import { a } from "./a.js";\n', "a.js": "\nexport const a = 1;\nawait a;\n"}
    with pytest.raises(BundleError, match="a.js:3: only the first module"):
        bundle(write(tmp_path, files))


@pytest.mark.parametrize("name", ["page", "worker"])
def test_ours(name: str) -> None:
    script = bundle(MODULES / f"{name}.js")
    assert "/**" not in script and "import" not in script.replace("imports", "")


def test_the_pages_of_the_server() -> None:
    """Their modules are written in the same forms, but for those that load a part of the page when it is needed."""
    for page in ("chat", "watch"):
        for module in (MODULES.parents[1] / "serve" / "static" / page).glob("*.js"):
            if "import(" not in re.sub(r"/\*.*?\*/|//[^\n]*", "", module.read_text(), flags=re.DOTALL):
                assert bundle(module)
