"""Bring a backup back, on this machine or another one.

Everything arrives in a hidden folder first and is compared with its hashes there; a step that is here already is not
fetched, what is newer here stays, and what is other is set aside before anything takes its name. Names and numbers in a
backup are a stranger's.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanochat import checkpoint, lock
from nanochat.checkpoint import Manifest
from nanochat.checkpoint.folder import SET_ASIDE, TAG
from nanochat.console import Progress, UserError, say, warn
from nanochat.hub.marker import FILE, Marker, read_marker
from nanochat.hub.run_files import LOG, LOG_RUNS, MANIFEST, OF_A_MODEL, Unit, run_id, whole_step
from nanochat.hub.target_url import open_target
from nanochat.hub.targets import Target, said, spare_of
from nanochat.metrics import last, read_metrics, training_file
from nanochat.paths import STAGES, base_dir, is_inside, replace_folder, require_disk, sync_folder, write_json
from nanochat.reading import MB, fits, read_json, shown

STEP = re.compile(r"step_([0-9]{6,12})")
SMALL = re.compile(r"(tokenizer|report|runs/[\w.-]+|data/[^/]+)/.+|speedrun\.json")
TRAINING = r"(speedrun|base_train|mid_train|chat_sft|chat_rl|finetune)"
TORCHRUN = r"torchrun --standalone --nproc_per_node=\d+"
COMMAND = re.compile(rf"(bash \S*speedrun\.sh|nanochat {TRAINING}|(python|{TORCHRUN}) -m scripts\.{TRAINING})(?!\S)")
TRAINS = {"base_train": "base", "mid_train": "mid", "chat_sft": "sft"}  # stages of a speedrun's log
LARGEST_MANIFEST, LARGEST_LOG = 1 * MB, 4 * MB
OUR_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # what reading from elsewhere does not fail with
TRIES = 3  # of a file that arrives with another hash


class Damaged(Exception):
    """What the backup holds is not what it should be."""


@dataclass
class Step:
    """A checkpoint in the backup. mark: the hash of its manifest."""

    number: int
    manifest: Manifest
    mark: str

    @property
    def bytes(self) -> int:
        return sum(int(facts["size"]) for facts in self.manifest.files.values())


@dataclass
class Arriving:
    """A model of the backup. fetch: steps that are to come. aside: another run here has its name. kept: why it stays as
    it is here, "" if it does not."""

    unit: Unit
    steps: list[Step]
    fetch: list[Step] = field(default_factory=list)
    aside: bool = False
    kept: str = ""


class Restore:
    """One restore. place: the hidden folder in which everything arrives."""

    def __init__(self, target: Target, place: Path) -> None:
        self.target, self.place = target, place
        self.marker = Marker()
        self.there: dict[str, int] = {}
        self.damaged: list[str] = []
        self.arriving: list[Arriving] = []
        self.small: list[str] = []

    def look(self, stage: str, tag: str) -> None:
        """Find out what is there and what of it is to come. UserError when there is nothing."""
        try:
            marker = read_marker(self.target)
            self.there = {path: size for path, size in self.target.files().items() if is_inside(path)}
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"cannot read {self.target.url}: {said(error)}", "Check the URL and your access") from None
        if marker is None:
            there = ", ".join(sorted({shown(path.split("/")[0]) for path in self.there})[:8])
            problem = f"{self.target.url} holds no backup of nanochat: it has no {FILE}"
            raise UserError(problem, f"Name another one; there is {there}" if there else "Check the URL")
        self.marker = marker
        units = [unit for unit in self._units() if stage in ("", unit.stage) and tag in ("", unit.tag)]
        if not tag:
            for unit in [unit for unit in units if SET_ASIDE.search(unit.tag)]:
                say(f"also there: an older run, {unit.name} (--stage {unit.stage} --tag {unit.tag} brings it)")
            units = [unit for unit in units if not SET_ASIDE.search(unit.tag)]
        if (stage or tag) and not units:
            named = ", ".join(unit.name for unit in self._units())
            raise UserError(f"{self.target.url} holds no {stage or 'model'} {tag}".rstrip(), f"It has: {named}")
        for unit in units:
            self.arriving.append(self._compare(Arriving(unit, self._steps(unit))))
        came = {arriving.unit.runs for arriving in self.arriving if arriving.steps and not arriving.kept}
        for path in sorted(self.marker.files):
            top = "/".join(path.split("/")[:2])
            if path in self.there and SMALL.fullmatch(path) and all(not p.startswith(".") for p in path.split("/")):
                general = path == LOG or top == LOG_RUNS or path.startswith("report/")
                if top in came if OF_A_MODEL.fullmatch(path) else not ((stage or tag) and general):
                    self.small.append(path)

    def _units(self) -> list[Unit]:
        stages, found = {folder: stage for stage, folder in STAGES.items()}, set()
        for path in self.there:
            parts = path.split("/")
            if len(parts) > 3 and parts[0] in stages and TAG.fullmatch(parts[1]) and STEP.fullmatch(parts[2]):
                found.add((stages[parts[0]], parts[1]))
        return [
            Unit(stage, tag) for stage, tag in sorted(found, key=lambda pair: (list(STAGES).index(pair[0]), pair[1]))
        ]

    def _steps(self, unit: Unit) -> list[Step]:
        """The whole steps of a model, ascending; others are named."""
        start, found = f"{unit.folder}/", []
        names = {path.removeprefix(start).split("/")[0] for path in self.there if path.startswith(start)}
        for number in sorted(int(m[1]) for name in names if (m := STEP.fullmatch(name))):
            try:
                found.append(self._step(unit, number))
            except Damaged as error:
                self._name(f"{unit.name} step {number:,} is {error}")
        return found

    def _step(self, unit: Unit, number: int) -> Step:
        folder = unit.step_folder(number)
        if f"{folder}/{MANIFEST}" not in self.there:
            raise Damaged("not whole: its transfer did not come to its end")
        place = self.place / "manifests" / folder
        try:
            data = self.target.read(f"{folder}/{MANIFEST}", LARGEST_MANIFEST)
            place.mkdir(parents=True, exist_ok=True)
            (place / MANIFEST).write_bytes(data)
            manifest = checkpoint.read_manifest(place)
        except (UserError, ValueError, FileNotFoundError) as error:
            why = error.problem.replace(str(place), "its manifest") if isinstance(error, UserError) else said(error)
            raise Damaged(f"damaged: {why}") from None
        except Exception as error:
            if getattr(error, "errno", None) in OUR_DISK:
                raise
            raise UserError(f"cannot read {self.target.url}: {said(error)}", "Run the same command again") from None
        if (manifest.stage, manifest.step) != (unit.stage, number) or SET_ASIDE.sub("", unit.tag) != manifest.tag:
            raise Damaged(f"damaged: its manifest is that of {manifest.stage} {manifest.tag} step {manifest.step:,}")
        for name, facts in manifest.files.items():
            if self.there.get(f"{folder}/{name}") != facts["size"] or name == MANIFEST:
                raise Damaged(f"damaged: {shown(name)} is missing or has another size")
        return Step(number, manifest, hashlib.sha256(data).hexdigest())

    def _name(self, line: str) -> None:
        self.damaged.append(line)
        warn(f"warning: in {self.target.url}, {line}: passed over")

    def _compare(self, arriving: Arriving) -> Arriving:
        """What of a model's steps is to come, and what becomes of what is here."""
        unit, steps = arriving.unit, arriving.steps
        here = checkpoint.steps(unit.stage, unit.tag)
        whole = {n: step for n, folder in here.items() if (step := whole_step(n, folder))}
        same = [s for s in steps if s.number in whole and whole[s.number].mark == s.mark]
        other = [s for s in steps if s.number in whole and whole[s.number].mark != s.mark]
        ids = run_id(unit.stage, unit.tag), self.marker.runs.get(unit.key, "")
        one_run = not other and (bool(same) or (bool(ids[0]) and ids[0] == ids[1]))
        if not steps:
            arriving.kept = "nothing whole is there"
        elif here and not one_run and whole:
            arriving.aside, arriving.fetch = True, steps
        elif max(whole, default=0) > steps[-1].number:
            arriving.kept = f"here it is at step {max(whole):,} already"
        else:
            intact = {s.number for s in same if not any(checkpoint.faults(here[s.number], s.manifest))}
            arriving.fetch = [s for s in steps if s.number not in intact]
            if not arriving.fetch:
                say(f"{unit.name} is here already, up to step {steps[-1].number:,}")
        return arriving

    @property
    def bytes(self) -> int:
        steps = sum(step.bytes for arriving in self.arriving for step in arriving.fetch)
        return steps + sum(int(self.marker.files[path]["size"]) for path in self.small)

    def tell(self) -> None:
        """Say what would come, and what would be set aside."""
        for a in self.arriving:
            if a.kept:
                say(f"  {a.unit.name}: left as it is: {a.kept}")
            for step in a.fetch:
                say(f"  {a.unit.name} step {step.number:,}: {step.bytes / 1e6:,.1f} MB")
            if a.aside:
                say(f"  {a.unit.name}: another run here has this name; it is set aside as {a.unit.tag}.previous-N")
        tops = sorted({path.split("/")[0] for path in self.small})
        if tops:
            say(f"  small files: {len(self.small)} in {', '.join(tops)}")

    def fetch(self) -> None:
        """Everything to come, into the hidden folder, verified. What is damaged is named and left out."""
        require_disk(base_dir(), self.bytes, f"restoring {self.target.url}")
        self._drop_others()
        with Progress(max(1.0, self.bytes / 1e6), "restore", "MB") as bar:

            def on_bytes(n: int) -> None:
                bar.advance(n / 1e6)

            for arriving in self.arriving:
                for step in reversed(list(arriving.fetch)):  # the newest first
                    try:
                        self._fetch_step(arriving.unit, step, on_bytes)
                    except Damaged as error:
                        self._name(f"{arriving.unit.name} step {step.number:,} is damaged: {error}")
                        arriving.fetch.remove(step)
                if not arriving.fetch:
                    arriving.aside = False
            for path in list(self.small):
                try:
                    self._fetch_small(path, on_bytes)
                except Damaged as error:
                    self._name(f"{shown(path)} is damaged: {error}")
                    self.small.remove(path)

    def _drop_others(self) -> None:
        """Delete what a call before this one fetched and the backup no longer names."""
        steps = [(a.unit.step_folder(step.number), step) for a in self.arriving for step in a.fetch]
        wanted = {f"{folder}/{name}" for folder, step in steps for name in step.manifest.files}
        wanted |= {name for path in self.small for name in (path, spare_of(path))}
        for path in [path for path in self.place.rglob("*") if path.is_file()]:
            name = path.relative_to(self.place).as_posix()
            if not name.startswith("manifests/") and not {name, name.partition(".part")[0]} & wanted:
                path.unlink()

    def _fetch_small(self, path: str, on_bytes: Callable[[int], None]) -> None:
        facts, spare = self.marker.files[path], spare_of(path)
        hashes = {facts["sha256"], facts.get("was", "")}
        try:
            self._fetch_file(path, self.there[path], hashes, on_bytes)
        except Damaged:
            if spare not in self.there:
                raise
            self._fetch_file(spare, self.there[spare], hashes, on_bytes)
            os.replace(self.place / spare, self.place / path)

    def _fetch_step(self, unit: Unit, step: Step, on_bytes: Callable[[int], None]) -> None:
        folder = unit.step_folder(step.number)
        for name, facts in step.manifest.files.items():
            try:
                self._fetch_file(f"{folder}/{name}", int(facts["size"]), {str(facts["sha256"])}, on_bytes)
            except Damaged as error:
                raise Damaged(f"{shown(name)} {error}") from None
        shutil.copyfile(self.place / "manifests" / folder / MANIFEST, self.place / folder / MANIFEST)

    def _fetch_file(self, path: str, size: int, hashes: set[str], on_bytes: Callable[[int], None]) -> None:
        final = self.place / path
        if final.is_file():  # from a call before this one; the backup may hold another file of that name by now
            if final.stat().st_size == size and checkpoint.sha256(final) in hashes:
                on_bytes(size)
                return
            final.unlink()
        part = final.with_name(f"{final.name}.part")
        final.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(TRIES):
            if part.exists() and part.stat().st_size > size:
                part.unlink()
            on_bytes(part.stat().st_size if part.exists() else 0)
            self._receive(path, size, part, on_bytes)
            if part.exists() and part.stat().st_size == size and checkpoint.sha256(part) in hashes:
                break
            on_bytes(-part.stat().st_size if part.exists() else 0)
            part.unlink(missing_ok=True)
        else:
            raise Damaged("arrived with another SHA-256 than it should have")
        os.replace(part, final)

    def _receive(self, path: str, size: int, part: Path, on_bytes: Callable[[int], None]) -> None:
        if not size:
            part.touch()
            return
        failures = 0
        while not part.exists() or part.stat().st_size < size:
            before = part.stat().st_size if part.exists() else 0
            try:
                self.target.fetch(path, size, part, on_bytes)
                return
            except FileNotFoundError:
                raise Damaged("is no longer there") from None
            except UserError:
                raise
            except Exception as error:  # a driver of fsspec may raise anything
                if getattr(error, "errno", None) in OUR_DISK:
                    raise
                failures = 1 if part.exists() and part.stat().st_size > before else failures + 1
                if failures >= TRIES:
                    again = "Run the same command again: what has arrived is not fetched again"
                    raise UserError(f"cannot read {path} in {self.target.url}: {said(error)}", again) from None

    def put(self) -> None:
        """Give everything its place."""
        for arriving in self.arriving:
            if arriving.fetch:
                self._put_steps(arriving)
        self._mend_log()
        self._mend_tokenizer()
        for folder in ("tokenizer", "report"):
            if files := [path for path in self.small if path.startswith(f"{folder}/")]:
                self._put_folder(folder, files)
        for top in sorted({"/".join(path.split("/")[:2]) for path in self.small if path.startswith("data/")}):
            self._put_corpus(top)
        for path in self.small:
            if path.startswith("runs/") or path == LOG:
                self._put_file(path)

    def _put_steps(self, arriving: Arriving) -> None:
        unit = arriving.unit
        home = base_dir() / unit.folder
        busy = f"a training of {unit.name} is at work in {home.parent}"
        with lock.hold(checkpoint.lock_file(unit.stage, unit.tag), busy, 5.0):
            if arriving.aside and (moved := checkpoint.set_aside(unit.stage, unit.tag)):
                say(f"Kept the other {unit.stage} run {unit.tag} as {moved}")
            home.mkdir(parents=True, exist_ok=True)
            for step in arriving.fetch:
                final, came = base_dir() / unit.step_folder(step.number), self.place / unit.step_folder(step.number)
                if final.exists():  # it was damaged
                    say(f"Kept the damaged checkpoint as {checkpoint.reject(final)}")
                os.utime(came)  # the newest is the one written last
                os.rename(came, final)
            sync_folder(home)
        say(f"{unit.name}: step {', '.join(f'{step.number:,}' for step in arriving.fetch)}")

    def _mend_log(self) -> None:
        """A speedrun's log may say that a stage is done whose last checkpoint was not sent: that stage goes on."""
        path = self.place / LOG
        if LOG not in self.small:
            return
        try:
            log = read_json(path, LARGEST_LOG)
            if not all(fits(log[table], dict[str, str]) for table in ("started", "done", "left")):
                raise ValueError("a table has another form")
        except (OSError, ValueError, KeyError, TypeError) as error:
            self._name(f"{LOG} is damaged: {said(error)}")
            self.small.remove(LOG)
            return
        for name, stage in TRAINS.items():
            newest = set()
            for tag in checkpoint.tags(stage):
                with contextlib.suppress(UserError):
                    newest.add(checkpoint.read_manifest(checkpoint.find(stage, tag)).hash)
            if name in log["done"] and log["left"].get(name) not in newest:
                del log["done"][name]
                log["left"].pop(name, None)
        write_json(path, log)

    def _mend_tokenizer(self) -> None:
        """Without a whole tokenizer in the backup, the one inside the newest checkpoint takes its place."""
        files = [path for path in self.marker.files if path.startswith("tokenizer/")]
        if files and set(files) <= set(self.small):
            return
        self.small = [path for path in self.small if not path.startswith("tokenizer/")]
        units = [a.unit for a in self.arriving if a.fetch]
        if units and not (base_dir() / "tokenizer").exists():
            source = checkpoint.find(units[0].stage, units[0].tag) / "tokenizer"
            with replace_folder(base_dir() / "tokenizer") as folder:
                shutil.copytree(source, folder, dirs_exist_ok=True)
            say(f"tokenizer: that of {source}")

    def _put_folder(self, folder: str, files: list[str]) -> None:
        """A folder whose files belong together."""
        final, came = base_dir() / folder, self.place / folder
        if _holds_all(final, came, [path.removeprefix(f"{folder}/") for path in files]):
            return
        if final.exists():
            aside = _free(final)
            final.rename(aside)
            say(f"Kept the other {folder} as {aside}")
        came.rename(final)
        say(f"{folder}: {len(files)} files")

    def _put_corpus(self, top: str) -> None:
        """The text of the tiny world, or the description of another text."""
        final, came = base_dir() / top, self.place / top
        files = [path.removeprefix(f"{top}/") for path in self.small if path.startswith(f"{top}/")]
        if _holds_all(final, came, files):
            return
        if final.exists():
            say(f"{final} holds another text: left as it is")
            return
        final.parent.mkdir(parents=True, exist_ok=True)
        came.rename(final)
        say(f"{top}: {len(files)} files")

    def _put_file(self, path: str) -> None:
        final, came = base_dir() / path, self.place / path
        if final.exists():
            # What grows may have grown here since it was sent.
            if final.is_file() and final.read_bytes().startswith(came.read_bytes()):
                return
            aside = _free(final)
            final.rename(aside)
            say(f"Kept the other {path} as {aside.name}")
        final.parent.mkdir(parents=True, exist_ok=True)
        os.replace(came, final)

    def farewell(self) -> None:
        """Say what to do next."""
        if self.damaged:
            say(f"{len(self.damaged)} things in the backup are damaged; what is above is the newest that is whole")
        lacking = []
        for meta in sorted((base_dir() / "data").glob("*/meta.json")):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                values = read_json(meta, 64 * MB)
                shards = [shard["file"] for shard in values["shards"]]
                if values["folder"] == "." and not all((meta.parent / str(name)).is_file() for name in shards):
                    lacking.append((meta.parent.name, len(shards) - 1 + len(values["skipped"]), str(values["source"])))
        for name, count, source in lacking:
            say(f"The text {name} ({shown(source)}) is not in the backup; get it again first:")
            say(f"  python -m nanochat.dataset --dataset {shlex.quote(name)} -n {count}")
        for command in self._commands():
            say(f"To go on with the training:\n  {command}")
        stages = [a.unit.stage for a in self.arriving if a.steps]
        if stages:
            best = next(stage for stage in ("sft", "rl", "mid", "base") if stage in stages)
            tag = next(a.unit.tag for a in self.arriving if a.unit.stage == best and a.steps)
            say(f"To talk to the model:\n  python -m scripts.chat_web -i {best} --model-tag {tag}")

    def _commands(self) -> Iterator[str]:
        """What was typed there, quoted anew: a stranger may have written it."""
        told: Mapping[str, Any] = self.marker.commands
        units = [a.unit for a in self.arriving if a.steps and a.unit.key in told and not self._is_finished(a.unit)]
        keys = ["speedrun"] if "speedrun" in told else [unit.key for unit in units][-1:]
        for key in keys:
            with contextlib.suppress(ValueError):
                # --on-finish would run what the stranger likes; no backup of ours holds it (`command_line`).
                if COMMAND.match(told[key]) and "--on-finish" not in told[key].replace("_", "-"):
                    yield shlex.join(shlex.split(told[key]))

    def _is_finished(self, unit: Unit) -> bool:
        """Whether a run came to its end: the same command would begin another one."""
        with contextlib.suppress(UserError, OSError, ValueError, KeyError, TypeError):
            state = read_json(checkpoint.find(unit.stage, unit.tag) / "train_state.json", 8 * MB, finite=False)
            return bool(
                state["step"] >= state["steps"] and last(read_metrics(training_file(unit.stage, unit.tag)), "summary")
            )
        return False


def _holds_all(folder: Path, came: Path, files: list[str]) -> bool:
    digest = checkpoint.sha256
    return all((folder / name).is_file() and digest(folder / name) == digest(came / name) for name in files)


def _free(path: Path) -> Path:
    n = 1
    while (aside := path.with_name(f"{path.stem}.previous-{n}{path.suffix}")).exists():
        n += 1
    return aside


@contextlib.contextmanager
def _disk() -> Iterator[None]:
    """Report any OSError in here as one of this machine's disk; those of the backup are told where it is read."""
    try:
        yield
    except OSError as error:
        remedy = "Check its room and its permissions, then run the same command again"
        raise UserError(f"cannot write into {base_dir()}: {said(error)}", remedy) from None


def restore(
    url: str,
    stage: str = "",
    tag: str = "",
    token: str = "",
    dry_run: bool = False,
    ask: bool = False,
    elsewhere: bool = False,
) -> None:
    """Bring a backup back into the base dir. stage, tag: "" for all of them. ask: before something is set aside.

    elsewhere: the base dir is another one than that of the commands that follow.
    """
    target = open_target(url, token)
    key = hashlib.sha256(url.encode(errors="surrogateescape")).hexdigest()[:12]
    home = base_dir() / ".restore"
    if dry_run:
        with tempfile.TemporaryDirectory() as place:
            restoring = Restore(target, Path(place))
            restoring.look(stage, tag)
            say(f"{url} would bring {restoring.bytes / 1e6:,.1f} MB into {base_dir()}:")
            restoring.tell()
        return
    with _disk(), lock.hold(home / f"{key}.lock", f"another restore of {url} is at work", 60.0):
        restoring = Restore(target, home / key)
        restoring.look(stage, tag)
        say(f"Restoring {restoring.bytes / 1e6:,.1f} MB from {url} into {base_dir()}:")
        restoring.tell()
        if ask and any(arriving.aside for arriving in restoring.arriving):
            say("Set aside what is here, and go on? [y/N]")
            if sys.stdin.readline().strip().lower() not in ("y", "yes"):
                say("Nothing was changed.")
                return
        restoring.fetch()
        restoring.put()
        shutil.rmtree(home / key, ignore_errors=True)
        if elsewhere:
            say(f"First, for the commands below:\n  export NANOCHAT_BASE_DIR={shlex.quote(str(base_dir()))}")
        restoring.farewell()
    if not restoring.arriving and not restoring.small:
        raise UserError(f"there was nothing whole to restore in {url}", "Name another backup")
