"""Nothing at the other end of a stream ends a command in a traceback; nor does a machine without home or folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nanochat import __main__ as program
from nanochat.console import UserError
from nanochat.paths import base_dir

ROOT = Path(__file__).parents[1]
COMMANDS = [*program.names(), ""]
ODD_OUTPUTS = {
    "a reader that leaves": "{} | head -c 3",
    "a full disk": "{} > /dev/full",
    "closed": "{} >&-",
    "all closed": "{} <&- >&- 2>&-",
    "ASCII": "PYTHONIOENCODING=ascii {}",
}


def shell(line: str, folder: Path, **env: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["bash", "-c", line],
        cwd=folder,
        env={**os.environ, "NANOCHAT_BASE_DIR": str(folder / "base"), "PYTHONPATH": str(ROOT), **env},
        capture_output=True,
        timeout=120,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is Linux's")
@pytest.mark.parametrize(
    "name",
    [name if name in ("", "speedrun", "chat") else pytest.param(name, marks=pytest.mark.slow) for name in COMMANDS],
)
def test_help_of_every_command_into_odd_outputs(tmp_path: Path, name: str) -> None:
    call = f"{sys.executable} -m nanochat {name} --help"
    # All at once, since most of the time Python starts.
    lines = [
        f"( {odd.format(call)}; echo ${{PIPESTATUS[0]}} > {n} ) 2> err{n} &"
        for n, odd in enumerate(ODD_OUTPUTS.values())
    ]
    shell(" ".join(lines) + " wait", tmp_path)
    for n, odd in enumerate(ODD_OUTPUTS):
        err = (tmp_path / f"err{n}").read_text()
        code = int((tmp_path / str(n)).read_text())
        assert "Traceback" not in err and "Exception ignored" not in err, (odd, err)
        assert code in {"a reader that leaves": (0, 141), "a full disk": (2,)}.get(odd, (0,)), (odd, code, err)
        if odd == "a full disk":
            assert "not all of the output could be written (No space left on device)" in err


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_work_goes_on_when_nobody_reads(tmp_path: Path, unbuffered: str) -> None:
    code = "import sys; from dataclasses import dataclass; from nanochat.console import *\n"
    code += "@dataclass\nclass C:\n    n: int = 500\n"
    code += "def run(c):\n    with Progress(c.n, 'é') as bar:\n"
    code += "        for i in range(c.n): say('é' * 999); warn('é'); bar.advance(1)\n    open('done', 'w').close()\n"
    code += "run_command(C, run, argv=[])"
    (tmp_path / "work.py").write_text(code)
    for n, odd in enumerate(ODD_OUTPUTS.values()):
        line = odd.format(
            f"{sys.executable} work.py 2> err{n}".replace("2> err3", "")
            if n == 3
            else f"{sys.executable} work.py 2> err{n}"
        )
        found = shell(f"{line}; echo ${{PIPESTATUS[0]}} > code", tmp_path, PYTHONUNBUFFERED=unbuffered)
        assert (tmp_path / "done").exists(), found
        (tmp_path / "done").unlink()
        assert (tmp_path / "code").read_text() == "0\n"
        err = (tmp_path / f"err{n}").read_text() if n != 3 else ""
        assert "Traceback" not in err and "Exception ignored" not in err


def test_the_output_is_usable_after_a_command_in_the_same_process(tmp_path: Path) -> None:
    code = "import sys\nkept = sys.stdout\nkept.write('before ')\n"
    code += "from nanochat.commands.plan import main\nsys.argv = ['nanochat plan', '--calibration']\n"
    code += "main()\nassert sys.stdout is kept is sys.__stdout__\nprint('after')\nkept.write('last')\n"
    code += "sys.argv += ['--no-such-flag']\ntry:\n    main()\nexcept SystemExit as stop:\n    print(stop.code)\n"
    found = shell(f'{sys.executable} -c "$CODE"', tmp_path, CODE=code)
    out = found.stdout.decode()
    assert found.returncode == 0 and out.startswith("before ") and out.endswith("after\nlast2\n"), (out, found.stderr)
    assert b"Traceback" not in found.stderr and b"Exception ignored" not in found.stderr


def test_odd_words_into_an_ascii_terminal(tmp_path: Path) -> None:
    python = f"PYTHONIOENCODING=ascii {sys.executable} -m nanochat"
    for words in (
        "tok_train --dataset=é🎉",
        "tok_train --dataset=$'\\xff'",
        "nö",
        "chat_cli --sourcé",
        "chat_cli -p é",
    ):
        found = shell(f"{python} {words}", tmp_path)
        assert found.returncode == 2 and b"Traceback" not in found.stderr, found.stderr
        found.stderr.decode("ascii")


def test_no_home_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("NANOCHAT_BASE_DIR", raising=False)
    monkeypatch.setattr(Path, "home", home)
    with pytest.raises(UserError, match="there is no home directory.*Set NANOCHAT_BASE_DIR"):
        base_dir()


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_report_from_a_folder_that_cannot_be_written(tiny_run: Path, tmp_path: Path) -> None:
    line = f"cd /proc; {sys.executable} -m nanochat.report generate"  # where not even root can write
    found = shell(line, tmp_path, NANOCHAT_BASE_DIR=str(tiny_run))
    assert found.returncode == 0, found.stderr
    assert b"warning: no copy of the report in /proc: cannot write /proc/" in found.stderr
    assert b"Report: " in found.stdout and b"copied" not in found.stdout
