"""push_to_hf to a static Space: a page in a folder is what the Hub shows, with the README.md that it needs for that."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from huggingface_hub import SpaceCard

from nanochat.commands import push_to_hf
from nanochat.console import run_command
from tests.corpus.hubserver import sha256
from tests.hub.writableserver import PART, SMALL, WritableHub

NAME = "me/my-bot"
SPACE = f"space:{NAME}"
MINE = b"---\nsdk: static\ntitle: Mine\n---\n"


def push(folder: Path | str, *more: str) -> int:
    """The exit code."""
    given = [f"--model-dir={folder}", f"--repo-id={NAME}", "--repo-type=space", *more]
    try:
        run_command(push_to_hf.Config, push_to_hf.run, argv=[one for one in given if one != "--model-dir="])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a page that is too large for git, and comes in parts."""
    (tmp_path / "space").mkdir()
    (tmp_path / "space" / "index.html").write_bytes(random.Random(0).randbytes(2 * PART + 1))
    return tmp_path / "space"


def test_a_page(folder: Path, hub: WritableHub, capsys: pytest.CaptureFixture[str]) -> None:
    page = (folder / "index.html").read_bytes()
    assert push(folder, "--dry-run") == 0
    said = capsys.readouterr().out
    assert f"Would make the private repository {NAME}" in said and ", and a README.md. Nothing was changed." in said
    assert not hub.stock
    assert push(folder) == 0
    assert f"It is at {hub.url}/spaces/{NAME}\n" in capsys.readouterr().out
    made = hub.stock[SPACE]
    assert (made.private, made.sdk, list(hub.stock)) == (True, "static", [SPACE])
    assert hub.head(SPACE).keys() == {"index.html", "README.md"}
    assert hub.head(SPACE)["index.html"] == page and hub.arrived == [sha256(page)] and "complete" in hub.calls
    facts = SpaceCard(hub.head(SPACE)["README.md"].decode()).data.to_dict()
    looks = {"emoji": "\N{SPEECH BALLOON}", "colorFrom": "green", "colorTo": "gray"}
    assert facts == {"title": "my-bot", "sdk": "static", "app_file": "index.html", "pinned": False, **looks}

    commits = len(made.commits)
    assert push(folder) == 0 and len(made.commits) == commits
    (folder / "index.html").write_bytes(page[::-1])
    assert push(folder) == 0
    assert hub.head(SPACE)["index.html"] == page[::-1]
    assert made.private and not (folder / "README.md").exists()
    assert push(folder, "--public") == 0 and not made.private


def test_a_public_one(folder: Path, hub: WritableHub) -> None:
    (folder / "index.html").write_bytes(page := b"<p>" * (SMALL // 4))
    assert push(folder, "--public") == 0
    assert not hub.stock[SPACE].private and hub.head(SPACE)["index.html"] == page and not hub.arrived


@pytest.mark.parametrize("where", ["folder", "repository"])
def test_a_readme_of_a_persons(folder: Path, hub: WritableHub, where: str) -> None:
    if where == "folder":
        (folder / "README.md").write_bytes(MINE)
    else:
        hub.make(SPACE, {"README.md": MINE, "style.css": b"kept"})
    assert push(folder) == push(folder) == 0
    assert hub.head(SPACE)["README.md"] == MINE
    assert ("style.css" in hub.head(SPACE)) == (where == "repository")


OTHERS = [b"---\nsdk: gradio\napp_file: app.py\n---\n", b"# Mine\n\nsdk: static\n", b"", b"\xff"]


@pytest.mark.parametrize("readme", OTHERS)
def test_a_space_of_another_kind(
    folder: Path, hub: WritableHub, readme: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is sent to it, and it stays private: it would show another thing to everybody."""
    hub.make(SPACE, {"README.md": readme, "app.py": b"theirs"})
    hub.stock[SPACE].private = True
    for more in (["--public"], ["--dry-run"]):
        assert push(folder, *more) == 2
        assert "it would not show the page" in capsys.readouterr().err
    assert hub.stock[SPACE].private and hub.head(SPACE).keys() == {"README.md", "app.py"} and not hub.received
    (folder / "README.md").write_bytes(readme)
    assert push(folder) == 2
    assert "the README.md in space does not make it a static Space" in capsys.readouterr().err
    (folder / "README.md").write_bytes(b"\xef\xbb\xbf---\r\ntitle: x\r\nsdk: 'static' # so\r\n---\r\n")
    assert push(folder) == 0 and "index.html" in hub.head(SPACE)


def test_what_is_refused(folder: Path, hub: WritableHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    step = tmp_path / "d4" / "step_000059"
    step.mkdir(parents=True)
    (step / "model.safetensors").write_bytes(b"x")
    cases = [
        ((step.parent,), "the folder d4 has no index.html, which is what a Space shows"),
        ((step,), "the folder step_000059 has no index.html"),
        (("/no/where",), "the folder /no/where does not exist"),
        ((folder, "--path-in-repo=a"), "Leave out --path-in-repo"),
        (("", "--stage=sft"), "no stage goes there"),
        ((folder, "--repo-type=spaces"), "--repo-type"),
    ]
    for given, message in cases:
        assert push(*map(str, given)) == 2, given
        assert message in (said := capsys.readouterr()).err, (given, said)
    assert not hub.stock and not hub.received
