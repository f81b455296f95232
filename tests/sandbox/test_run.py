"""Programs that mean no harm: their output, their errors, and what Python they find."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from nanochat.console import UserError
from nanochat.tools.sandbox import Level, Limits, Sandbox, SandboxError

ROOT = Path(__file__).parents[2]


def test_hello(box: Sandbox) -> None:
    result = box.run("print('hello', 6 * 7)")
    assert (result.status, result.stdout, result.stderr, result.ok) == ("ok", "hello 42\n", "", True)
    assert result.seconds > 0


def test_stdin(box: Sandbox) -> None:
    code = "import sys\nprint(sum(map(int, sys.stdin)))"
    assert box.run(code, "1\n2\n39").stdout == "42\n"
    assert box.run(code, "1\n" * 100_000).stdout == "100000\n"
    assert box.run("print(input())", "\u00e9\u4e16").stdout == "\u00e9\u4e16\n"
    assert box.run("print(1)", "never read " * 100_000).stdout == "1\n"


@pytest.mark.parametrize(
    ("code", "status", "stderr"),
    [
        ("1 / 0", "error", 'File "program.py", line 1, in <module>\n    1 / 0\n    ~~^~~\nZeroDivisionError'),
        ("def f(:", "error", "SyntaxError"),
        ("raise SystemExit", "ok", ""),
        ("raise SystemExit(0)", "ok", ""),
        ("raise SystemExit(3)", "error", ""),
        ("raise SystemExit('bye')", "error", "bye\n"),
        ("raise KeyboardInterrupt", "error", "KeyboardInterrupt"),
        ("import sys; sys.stderr.write('a' * 10000 + 'end')", "ok", "end"),
        ("x = '\ud800'", "error", "surrogates"),
        ("print('\\ud800')", "error", "surrogates"),
        ("\0", "error", "null bytes"),
        ("", "ok", ""),
        ("(" * 1000, "error", "SyntaxError"),
        ("import os; os._exit(5)", "error", ""),
    ],
)
def test_status(code: str, status: str, stderr: str, best: Sandbox) -> None:
    result = best.run(code)
    assert result.status == status
    assert stderr in result.stderr
    assert len(result.stderr) <= 4096


def test_what_python_it_is(box: Sandbox) -> None:
    """The whole standard library, a folder of its own, and a main module; but no packages."""
    deletes = (
        "" if box.level in (Level.LANDLOCK, Level.BUBBLEWRAP) else "with tempfile.TemporaryFile() as f: f.write(b'x')"
    )
    code = f"""
import array, asyncio, bz2, csv, ctypes, decimal, hashlib, json, lzma, math, multiprocessing, os, random, re, sqlite3
import sys, tempfile, unicodedata, zlib, zoneinfo
assert __name__ == "__main__" and sys.modules["__main__"].__dict__ is globals()
assert hashlib.sha256(b"").hexdigest().startswith("e3b0") and sqlite3.connect(":memory:").execute("select 1").fetchall()
with open("notes", "w") as file: file.write("kept")
{deletes}
assert open(os.path.join(os.getcwd(), "notes")).read() == "kept" and os.listdir() == ["notes"]
assert os.path.expanduser("~") == os.getcwd() and sorted(os.environ) == ["HOME", "LANG", "PATH", "TMPDIR"]
open("module.py", "w").write("value = 7")
from module import value
class Pickled: pass
import pickle
pickle.loads(pickle.dumps(Pickled()))
try: import torch
except ImportError: print("fine", value)
"""
    result = box.run(code)
    assert (result.stdout, result.status) == ("fine 7\n", "ok"), result


def test_threads_and_asyncio(best: Sandbox) -> None:
    if best.level < Level.NAMESPACES:
        pytest.skip("one thread only below the level namespaces")
    code = """
import asyncio
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(8) as pool: print(sum(pool.map(abs, range(-5, 5))))
async def main():
    await asyncio.sleep(0.01)
    return await asyncio.to_thread(abs, -3)
print(asyncio.run(main()))
"""
    assert best.run(code).stdout == "25\n3\n"


def test_processes_when_they_are_allowed(best: Sandbox) -> None:
    limits = Limits(seconds=20, processes=4, memory=1 << 30)
    code = (
        "import os\nr, w = os.pipe()\nif os.fork() == 0: os._exit(os.write(w, b'hi'))\nos.wait()\nprint(os.read(r, 9))"
    )
    if best.level < Level.NAMESPACES:
        with pytest.raises(UserError, match="4 processes"):
            best.run(code, limits=limits)
    else:
        assert best.run(code, limits=limits).stdout == "b'hi'\n"
        assert "PermissionError" in best.run(code).stderr


def test_output_is_cut_at_the_limit(best: Sandbox) -> None:
    limits = Limits(output=1000)
    assert best.run("print('x' * 999)", limits=limits).status == "ok"
    result = best.run("print('x' * 1000)", limits=limits)
    assert (result.status, result.stdout) == ("output", "x" * 1000)
    assert best.run("import sys; sys.stderr.write('x' * 1001)", limits=limits).status == "output"


def test_many_threads(best: Sandbox) -> None:
    results = best.run_many([f"print({i} ** 2)" for i in range(40)], workers=8)
    assert [int(result.stdout) for result in results] == [i**2 for i in range(40)]
    checks: list[bool] = []
    threads = [
        threading.Thread(target=lambda i=i: checks.append(best.check(f"def f(): return {i % 2}", "f", "assert f()").ok))
        for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(checks) == [False] * 4 + [True] * 4


def test_nothing_of_the_trainer_is_in_the_program(best: Sandbox) -> None:
    """Neither its modules nor its environment, its arguments or its folder."""
    code = "import os, sys; print('pytest' in sys.modules, 'torch' in sys.modules, sys.argv, len(os.environ) < 7)"
    assert best.run(code).stdout == "False False ['program.py'] True\n"


def test_closing() -> None:
    with Sandbox() as box:
        zygote = box._zygote
        assert zygote and zygote.process
    assert zygote.process.poll() == 0
    with pytest.raises(SandboxError, match="closed"):
        box.run("print(1)")
    box.close()


def test_forgotten_sandboxes_are_closed() -> None:
    box = Sandbox()
    assert box._zygote and (process := box._zygote.process)
    del box
    assert process.poll() is not None


@pytest.mark.parametrize(
    "limits",
    [
        *[{"seconds": 0}, {"cpu": -1}, {"memory": 1000}, {"output": 0}, {"disk": 0}, {"processes": 0}, {"threads": -1}],
        *[{"seconds": float("inf")}, {"processes": 100}],
    ],
)
def test_senseless_limits(limits: dict[str, int]) -> None:
    with pytest.raises(UserError, match=f"limit {next(iter(limits))}" if limits != {"processes": 100} else "memory"):
        Limits(**limits)


def test_import_is_light() -> None:
    """The zygote imports it, and so does a chat that never runs code."""
    code = "import sys, nanochat.tools.sandbox; print({'torch', 'numpy', 'rich', 'pyarrow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "set()\n", done.stderr


def test_it_says_which_level(capsys: pytest.CaptureFixture[str]) -> None:
    with Sandbox() as box:
        said = capsys.readouterr()
        assert f"Sandbox: {box.level.name.lower()} (" in said.out + said.err
