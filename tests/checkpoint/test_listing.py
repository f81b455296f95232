"""What ls shows, verify finds and rm deletes, among strangers' files, killed writers' parts and trainings at work."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import save_file

from nanochat import checkpoint, lock
from nanochat.checkpoint.listing import Entry, scan
from nanochat.checkpoint.removal import children, choose, freed, leftovers, remove
from nanochat.commands import checkpoints
from nanochat.console import UserError
from nanochat.metrics import training_file

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    return tmp_path


def make(step: int, tag: str = "d1", stage: str = "base", **state: Any) -> Path:
    import numpy as np

    with checkpoint.create(stage, tag, step) as folder:
        (folder / "tokenizer").mkdir()
        for name in ("meta.json", "ranks.tiktoken", "token_bytes.json", "tokenizer.json"):
            (folder / "tokenizer" / name).write_text("{}")
        (folder / "config.json").write_text("{}")
        (folder / "train_state.json").write_text(json.dumps({"val": {"val_bpb": 0.5}, **state}))
        save_file({"w": np.full(250, step, np.float32)}, folder / "model.safetensors")
    return checkpoint.steps(stage, tag)[step]


def states() -> dict[str, str]:
    return {entry.path.name: entry.state for entry in scan().entries}


def run(*args: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    kwargs = {"stdin": subprocess.DEVNULL, **kwargs}
    return subprocess.run(
        [sys.executable, "-m", "scripts.checkpoints", *args],
        cwd=ROOT, capture_output=True, text=True, timeout=60, **kwargs,
    )  # fmt: skip


def test_what_is_there_is_shown_with_size_and_measure() -> None:
    make(5)
    make(7, "d2", "sft", val={"val_loss": 1.25, "other": 3})
    first, second = scan().entries
    assert (first.stage, first.tag, first.step, first.state, first.measured) == (
        "base", "d1", 5, "whole", {"val_bpb": 0.5}
    )  # fmt: skip
    files = [path for path in first.path.rglob("*") if path.is_file()]
    assert first.bytes == sum(path.stat().st_size for path in files) > 1000
    assert (second.stage, next(iter(second.measured))) == ("sft", "val_loss")
    assert [entry.tag for entry in scan("sft").entries] == ["d2"]
    assert scan("base", "d2").entries == []


def test_the_command_lists_without_torch_and_writes_json(base: Path) -> None:
    make(5)
    program = "import sys; from nanochat.commands.checkpoints import main; main(); print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program, "ls", "--json", str(base / "list.json")],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "False", done.stderr
    assert "val_bpb 0.5" in done.stdout and "1 checkpoints" in done.stdout
    (row,) = json.loads((base / "list.json").read_text())["checkpoints"]
    assert (row["tag"], row["state"], row["measured"]) == ("d1", "whole", {"val_bpb": 0.5})


def test_states() -> None:
    whole, short = make(5), make(6)
    (short / "config.json").write_text("[1]")
    aside = make(1, "old")
    assert checkpoint.set_aside("base", "old") is not None
    (whole.parent / ".step_000004.gone").mkdir()
    (whole.parent / ".step_000007.part").mkdir()
    (whole.parent / ".step_000008.00001.part").write_bytes(b"x" * 10)
    (whole.parent.parent / ".d1.arriving").mkdir()
    shutil.copytree(whole, whole.parent / ".step_000005.old")  # beside the new one: a writer was killed
    shutil.copytree(short, whole.parent / ".step_000006.damaged-1")
    left = {".step_000004.gone", ".step_000007.part", ".step_000008.00001.part", ".d1.arriving", ".step_000005.old"}
    assert states() == {
        whole.name: "whole",
        short.name: "damaged",
        ".step_000006.damaged-1": "damaged",
        aside.name: "set aside",
        **dict.fromkeys(left, "left over"),
    }
    why = {entry.path.name: entry.why for entry in scan().entries}
    assert why[short.name] == "config.json has 3 bytes instead of 2"
    with lock.hold(checkpoint.lock_file("base", "d1"), "busy"):
        assert {name for name, state in states().items() if state == "being written"} == left


def test_an_old_folder_without_a_new_one_is_the_checkpoint() -> None:
    folder = make(5)
    folder.rename(folder.with_name(".step_000005.old"))
    assert states() == {".step_000005.old": "whole"}
    remove(choose("base", "d1"))
    assert scan().entries == []


NASTY = [
    b"\xff\xfe\x00",
    b'{"val": {"x": NaN}}',
    b'{"val": {"x": 1e400}}',
    b'{"val": {"x": "1"}}',
    b'{"val": {"\\u001b[2J\\n\\u202e": 1}}',
    b'{"parent": 3, "settings": 4, "val": 5}',
    b"[" * 100_000,
    b'{"a": 1, "a": 2}',
    b"9" * 6000,
    b"null",
    b"",
    b" " * (9 << 20),
]


@pytest.mark.parametrize("content", NASTY, ids=range(len(NASTY)))
@pytest.mark.parametrize("name", ["train_state.json", "manifest.json"])
def test_hostile_files_give_lines(name: str, content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    (make(5) / name).write_bytes(content)
    checkpoints.list_all(checkpoints.Ls())
    with pytest.raises(UserError, match="1 of 1 checkpoints are damaged"):
        checkpoints.verify(checkpoints.Verify())
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert "damaged: " in lines[1] and name in printed and all(line.isprintable() for line in lines)
    checkpoints.delete(checkpoints.Rm("base", "d1", yes=True))
    assert scan().entries == []


def test_strangers_files_are_told_of_and_stay(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make(5).parent
    (root / "notes.txt").write_text("mine")
    (root / "step_000009").write_text("a file")
    (root / "step_00000009").mkdir()
    (base / "base_checkpoints" / "my \x1b[31mbackup\n").mkdir()
    os.mkdir(os.fsencode(base / "base_checkpoints") + b"/\xff\xfe")
    os.mkfifo(base / "base_checkpoints" / "pipe")
    (base / "base_checkpoints" / "loop").symlink_to("loop")
    (base / "mid_checkpoints").write_text("no folder")
    (base / "chatsft_checkpoints").symlink_to("nowhere")
    checkpoints.list_all(checkpoints.Ls())
    out = capsys.readouterr().out
    assert out.isascii() and all(line.isprintable() for line in out.splitlines())
    assert out.count("is no model's folder") == 4 and "Not a directory" in out
    assert "also holds notes.txt and 2 more things" in out
    checkpoints.delete(checkpoints.Rm("base", "d1", yes=True))
    assert sorted(path.name for path in root.iterdir()) == ["notes.txt", "step_00000009", "step_000009"]


@pytest.fixture
def nobody(base: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A base folder in the eyes of a user who is not root."""
    place = Path(tempfile.mkdtemp(dir="/tmp"))
    place.chmod(0o755)
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(place))
    yield place
    os.seteuid(os.getuid())
    shutil.rmtree(place)


def test_folders_without_rights_give_lines(nobody: Path, capsys: pytest.CaptureFixture[str]) -> None:
    closed, unsearchable, unwritable = make(5).parent, make(5, "d2").parent, make(5, "d3").parent
    closed.chmod(0)
    unsearchable.chmod(0o444)
    unwritable.chmod(0o555)
    if os.getuid() == 0:
        os.seteuid(65534)
    checkpoints.list_all(checkpoints.Ls())
    out = capsys.readouterr().out
    assert f"{closed} cannot be read: Permission denied" in out and "whole" in out
    for tag in ("d1", "d2", "d3"):
        with pytest.raises(UserError):
            checkpoints.delete(checkpoints.Rm("base", tag, yes=True))
        with pytest.raises(UserError) if tag != "d3" else pytest.raises(UserError, match="no step 9"):
            checkpoint.find("base", tag, 9)
    if os.getuid() == 0:
        os.seteuid(0)
    closed.chmod(0o755)
    unsearchable.chmod(0o755)
    assert [entry.state for entry in scan().entries] == ["whole"] * 3


def test_verify_names_every_damaged_file() -> None:
    folder = make(5)
    make(6)
    for name in ("config.json", "model.safetensors"):
        data = bytearray((folder / name).read_bytes())
        data[-1] ^= 1
        (folder / name).write_bytes(data)
    done = run("verify")
    assert done.returncode == 2 and "1 of 2 checkpoints are damaged" in done.stderr
    assert all(f"damaged: {folder / name} is damaged" in done.stdout for name in ("config.json", "model.safetensors"))
    assert run("verify", "--step", "6").returncode == 0
    assert run("verify", "--tag", "d9").returncode == 2


def test_verify_does_not_believe_a_manifest_that_fits_a_broken_file() -> None:
    with checkpoint.create("base", "d1", 5) as folder:
        (folder / "tokenizer").mkdir()
        for name in ("meta.json", "ranks.tiktoken", "token_bytes.json", "tokenizer.json"):
            (folder / "tokenizer" / name).write_text("{}")
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes((2**63).to_bytes(8, "little") + b"{}")
    with pytest.raises(UserError, match="1 of 1"):
        checkpoints.verify(checkpoints.Verify())


def test_rm_asks_on_a_terminal_and_refuses_without(base: Path) -> None:
    make(5)
    done = run("rm", "--stage", "base", "--tag", "d1")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "--yes" in done.stderr
    for answer, left in ((b"\n", 1), (b"y\n", 0)):
        ours, theirs = pty.openpty()
        os.write(ours, answer)
        done = run("rm", "--stage", "base", "--tag", "d1", stdin=theirs)
        os.close(ours)
        os.close(theirs)
        assert done.returncode == 0 and "Delete these, which frees 0.00 MB?" in done.stdout, done.stderr
        assert len(scan().entries) == left
    assert not (base / "base_checkpoints" / "d1").exists()


def test_steps_are_chosen() -> None:
    for step in (1, 2, 3):
        make(step)
    checkpoints.delete(checkpoints.Rm("base", "d1", step=(1, 3), yes=True))
    assert list(checkpoint.steps("base", "d1")) == [2]
    with pytest.raises(UserError, match="no step 3.*Choose from: 2"):
        checkpoints.delete(checkpoints.Rm("base", "d1", step=(2, 3), yes=True))
    with pytest.raises(UserError, match="no base checkpoint with the tag 'd2'"):
        checkpoints.delete(checkpoints.Rm("base", "d2", yes=True))
    for config in (checkpoints.Rm(), checkpoints.Rm("base"), checkpoints.Rm(tag="d1"), checkpoints.Rm(yes=True)):
        with pytest.raises(UserError, match="not told what"):
            checkpoints.delete(config)
    assert list(checkpoint.steps("base", "d1")) == [2]


def test_a_training_at_work_keeps_its_checkpoints() -> None:
    folder = make(5)
    make(5, "d2")
    (folder.parent / ".step_000006.part").mkdir()
    chosen = choose("base", "d1")
    with lock.hold(checkpoint.lock_file("base", "d1"), "busy"):
        with pytest.raises(UserError, match="a training of base d1 is at work"):
            checkpoints.delete(checkpoints.Rm("base", "d1", yes=True))
        with pytest.raises(UserError, match="a training of base d1 is at work"):  # that began during the question
            remove(chosen)
        checkpoints.delete(checkpoints.Rm(parts=True, yes=True))
        checkpoints.delete(checkpoints.Rm("base", "d2", yes=True))
        assert sorted(states().values()) == ["being written", "whole"]
    checkpoints.delete(checkpoints.Rm(parts=True, yes=True))
    assert states() == {folder.name: "whole"}


def test_what_changed_during_the_question_is_not_deleted() -> None:
    make(5)
    chosen = choose("base", "d1")
    folder = make(5)
    os.utime(folder, (1, 1))
    with pytest.raises(UserError, match="just changed"):
        remove(chosen)
    assert states() == {folder.name: "whole"}


def test_a_kill_in_the_middle_leaves_no_half_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (1, 2):
        make(step)
    chosen = choose("base", "d1")

    def kill(path: Path) -> None:
        (path / "config.json").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(shutil, "rmtree", kill)
        with pytest.raises(KeyboardInterrupt):
            remove(chosen)
    assert states() == {".step_000001.gone": "left over", "step_000002": "whole"}
    remove(choose("base", "d1"))
    assert scan().entries == []


def test_deleting_a_step_does_not_bring_an_older_one_back() -> None:
    folder = make(5)
    shutil.copytree(folder, folder.with_name(".step_000005.old"))
    make(6)
    remove(choose("base", "d1", [5]))
    assert list(checkpoint.steps("base", "d1")) == [6]


def test_links_are_deleted_and_what_they_lead_to_stays(base: Path) -> None:
    folder = make(5)
    real = folder.rename(base / "elsewhere")
    folder.symlink_to(real)
    chosen = choose("base", "d1")
    assert [entry.state for entry in chosen] == ["whole"] and freed(chosen) == 0
    remove(chosen)
    assert not folder.parent.exists() and (real / "config.json").exists()


def test_a_file_that_another_checkpoint_shares_frees_nothing() -> None:
    one, two = make(1), make(2)
    (two / "model.safetensors").unlink()
    os.link(one / "model.safetensors", two / "model.safetensors")
    size = (one / "model.safetensors").stat().st_size
    entries = scan().entries
    assert freed(entries[:1]) == entries[0].bytes - size
    assert freed(entries) == entries[0].bytes + entries[1].bytes - size


def test_children_are_named() -> None:
    parent, other = make(5), make(6)
    weights = checkpoint.read_manifest(parent).hash
    make(1, "d1", "mid", parent=str(parent), settings={"parent": weights})
    make(1, "moved", "mid", parent="/elsewhere", settings={"parent": weights})
    make(1, "replaced", "mid", parent=str(parent), settings={"parent": "0" * 16})
    make(1, "plain", "sft", parent=str(other))

    def named(*entries: Entry) -> list[str]:
        return [line.partition(" was trained from")[0] for line in children(entries, scan())]

    five, six = (entry for entry in scan("base").entries)
    assert named(five) == ["mid d1 step 1", "mid moved step 1"]
    assert named(six) == ["sft plain step 1"]
    assert named(*scan().entries) == []


def test_left_overs_are_removed_everywhere_or_of_one_tag() -> None:
    for tag in ("d1", "d2"):
        (make(5, tag).parent / ".step_000004.part").mkdir()
    checkpoints.delete(checkpoints.Rm(parts=True, tag="d1", yes=True))
    assert [entry.tag for entry in leftovers(scan())] == ["d2"]
    checkpoints.delete(checkpoints.Rm(parts=True, yes=True))
    checkpoints.delete(checkpoints.Rm(parts=True, yes=True))
    assert sorted(states().values()) == ["whole"] and len(scan().entries) == 2


def test_a_run_in_an_unfinished_fork_is_never_deleted(base: Path) -> None:
    make(50), make(100)
    program = (
        "import os\nfrom nanochat.checkpoint import folder\nreal = folder.exchange\n"
        "folder.exchange = lambda a, b: real(a, b) and os._exit(9)\nfolder.fork('base', 'd1', 50)"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=60).returncode == 9
    fork = base / "base_checkpoints" / ".d1.previous-1.fork"
    assert states() == {"step_000050": "whole", fork.name: "set aside"} and leftovers(scan()) == []
    with lock.hold(checkpoint.lock_file("base", "d1"), "busy"):
        assert states()[fork.name] == "being written"
    checkpoints.delete(checkpoints.Rm(parts=True, yes=True))
    remove(choose("base", "d1"))
    assert sorted(path.name for path in fork.iterdir()) == ["step_000050", "step_000100"]
    checkpoint.clear("base", "d1")
    assert list(checkpoint.steps("base", "d1.previous-1")) == [50, 100]


def test_a_fork_that_was_killed_early_is_left_over(base: Path) -> None:
    folder = make(50)
    make(100)
    shutil.copytree(folder, base / "base_checkpoints" / ".d1.previous-1.fork" / folder.name)
    assert [(entry.tag, entry.path.name) for entry in leftovers(scan())] == [("d1", ".d1.previous-1.fork")]


def test_nothing_is_deleted_through_a_link(base: Path) -> None:
    root = make(1, "real").parent
    (root / ".step_000002.part").mkdir()
    root.with_name("alias").symlink_to("real")
    entries = scan("base", "alias").entries
    assert len(entries) == 2 and [entry.tag for entry in leftovers(scan())] == ["real"]
    for delete in (lambda: choose("base", "alias"), lambda: remove(entries)):
        with pytest.raises(UserError, match="alias is a link to another folder"):
            delete()
    assert list(checkpoint.steps("base", "real")) == [1]


def test_only_the_names_of_writers_are_left_overs(base: Path) -> None:
    root = make(1).parent
    mine = (".step_000001.my backup.old", ".step_000001.part.old", ".step_0000001.part", ".step_000001.1.part")
    left = (
        ".step_000001.part", ".step_000001.old", ".step_000001.gone", ".step_000001.00001.part",
        ".step_000001.old.gone", ".step_000001.damaged-1.gone", ".step_000001.old.damaged-2.gone",
    )  # fmt: skip
    for name in (*mine, *left):
        (root / name).mkdir()
    for name in (".d1.fork", "...d1.arriving", ".d1.arriving.part"):
        (root.parent / name).mkdir()
    assert sorted(entry.path.name for entry in leftovers(scan())) == sorted(left)
    checkpoints.delete(checkpoints.Rm(parts=True, yes=True))
    assert sorted(os.listdir(root)) == sorted((*mine, "step_000001"))


@pytest.mark.parametrize("parent", ["/x\0", "/x\ud800", "/" + "a" * 5000], ids=range(3))
def test_an_odd_parent_stops_no_deletion(parent: str) -> None:
    make(1)
    make(1, "bad", "sft", parent=parent)
    assert children(scan("base").entries, scan()) == []


def test_odd_numbers_in_the_metrics_stop_no_list() -> None:
    make(5)
    file = training_file("base", "d1")
    file.parent.mkdir(parents=True)
    for number in ("9" * 5000, "9" * 400):
        file.write_text(f'{{"version": 1, "kind": "eval", "step": 5, "bpb": {number}}}\n')
        assert [entry.measured for entry in scan().entries] == [{"val_bpb": 0.5}]
