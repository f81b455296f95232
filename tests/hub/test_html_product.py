"""The compiled product is what its source says, and browsers compile it."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.hub.html_browser import Probe
from tests.serve.npm import package

MODULES = Path(__file__).parents[2] / "nanochat" / "hub" / "html"
ASSEMBLE = """
require(process.argv[1])().then((wabt) => {
  const source = wabt.parseWat("product.wat", require("fs").readFileSync(process.argv[2], "utf8"), { simd: true });
  console.log(Buffer.from(source.toBinary({}).buffer).toString("base64"));
});
"""


def code() -> str:
    text = (MODULES / "product_wasm.js").read_text()
    return "".join(re.findall('^  "([^"]+)"', text, re.MULTILINE))


def test_it_is_what_its_source_says() -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    wabt = package("wabt", "1.0.39")
    done = subprocess.run([node, "-e", ASSEMBLE, wabt, MODULES / "product.wat"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == code()


def test_browsers_compile_it(probe: Probe) -> None:
    assert base64.b64decode(code()).startswith(b"\0asm")
    assert probe.call("compiles")
