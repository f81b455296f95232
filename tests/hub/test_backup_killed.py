"""A backup that is killed at any of its operations: what is there can be restored, and the next one finishes it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from nanochat import checkpoint
from nanochat.hub.backup import README
from nanochat.hub.marker import FILE, LEASE
from nanochat.hub.restore import restore
from nanochat.hub.target_url import open_target
from tests.hub.backing import Driven, begin_run, contents, make_run, make_step

URL = "memory://bucket/run"


class Killed(BaseException):
    pass


@pytest.fixture(autouse=True)
def far() -> Iterator[None]:
    MemoryFileSystem.store.clear()
    yield
    MemoryFileSystem.store.clear()


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    return tmp_path / "base"


def killed_at(number: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Run a backup that dies in its operation of that number, in the middle of a file if it writes one. False: it came
    to its end before."""
    done = [0]

    def dying(name: str) -> Any:
        real = getattr(MemoryFileSystem, name)

        def call(self: Any, *args: Any, **more: Any) -> Any:
            done[0] += 1
            if done[0] == number:
                if name == "put_file":
                    data = Path(args[0]).read_bytes()
                    MemoryFileSystem.store.pop(args[1], None)
                    real_pipe(self, args[1], data[: len(data) // 2])
                raise Killed
            return real(self, *args, **more)

        return call

    real_pipe = MemoryFileSystem.pipe_file
    with monkeypatch.context() as patch:
        for name in ("put_file", "cp_file", "rm_file", "pipe_file"):
            patch.setattr(MemoryFileSystem, name, dying(name))
        try:
            Driven(URL).all()
        except Killed:
            return True
    return False


def there() -> dict[str, bytes]:
    target = open_target(URL)
    return {path: target.read(path, 1 << 30) for path in target.files()}


def put_back(files: dict[str, bytes]) -> None:
    MemoryFileSystem.store.clear()
    for path, data in files.items():
        MemoryFileSystem().pipe_file(f"/bucket/run/{path}", data)


def own(files: dict[str, bytes]) -> dict[str, bytes]:
    return {path: data for path, data in files.items() if path not in (FILE, LEASE, README)}


def restored(tmp_path: Path, tag: str, monkeypatch: pytest.MonkeyPatch) -> dict[int, bytes]:
    """The weights of every step that a restore of this tag gives, all verified."""
    with monkeypatch.context() as patch:
        shutil.rmtree(tmp_path / "new", ignore_errors=True)
        patch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "new"))
        restore(URL, tag=tag)
        found = checkpoint.steps("base", tag)
        for folder in found.values():
            checkpoint.verify(folder)
        return {step: (folder / "model.safetensors").read_bytes() for step, folder in found.items()}


def test_of_a_run_that_goes_on(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(100, 200)
    Driven(URL).all()
    before = there()
    (base / "runs/base-d1/metrics.jsonl").open("a").write("more\n")
    make_step(300)
    checkpoint.prune("base", "d1", keep=2)
    shutil.copytree(base, tmp_path / "copy")
    for number in count(1):
        put_back(before)
        shutil.rmtree(base)
        shutil.copytree(tmp_path / "copy", base)
        if not killed_at(number, monkeypatch):
            break
        assert max(restored(tmp_path, "d1", monkeypatch)) in (200, 300)
        Driven(URL).all()
        assert own(there()) == contents(base)
    assert number > 20


@pytest.mark.slow
def test_of_another_run_of_the_tag(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The older run is whole under its name, or under its new one, at every moment."""
    make_run(100, 200)
    Driven(URL).all()
    before = there()
    older = {n: (f / "model.safetensors").read_bytes() for n, f in checkpoint.steps("base", "d1").items()}
    shutil.rmtree(base)
    begin_run(seed=2)
    newer = {300: (make_step(300, seed=2) / "model.safetensors").read_bytes()}
    shutil.copytree(base, tmp_path / "copy")
    for number in count(1):
        put_back(before)
        shutil.rmtree(base)
        shutil.copytree(tmp_path / "copy", base)
        if not killed_at(number, monkeypatch):
            break
        found: dict[int, bytes] = {}
        names = {path.split("/")[1] for path in there() if path.startswith("base_")}
        assert names <= {"d1", "d1.previous-1"}
        for tag in names:
            found |= restored(tmp_path, tag, monkeypatch)
        assert older.items() <= found.items()
        Driven(URL).all()
        assert restored(tmp_path, "d1.previous-1", monkeypatch) == older
        assert restored(tmp_path, "d1", monkeypatch) == newer
    assert number > 40
