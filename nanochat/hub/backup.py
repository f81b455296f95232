"""What a backup sends, and in which order: a run's checkpoints, tokenizer, metrics and report."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nanochat import checkpoint
from nanochat.checkpoint.folder import STEP
from nanochat.hub.marker import FILE, Marker, Writer, read_marker
from nanochat.hub.run_files import LOG, MANIFEST, Step, Unit, run_id, small_files, whole_step
from nanochat.hub.targets import DamagedHere, Item, Target, spare_of
from nanochat.paths import base_dir
from nanochat.reading import MB

README = "README.md"
LARGEST_MANIFEST = 1 * MB

Tell = Callable[[dict[str, Any]], None]


@dataclass
class Order:
    """What to keep safe. command: what the person typed, for `restore` to show."""

    units: list[Unit]
    corpus: str = ""
    speedrun: bool = False
    command: str = ""

    def to_dict(self) -> dict[str, Any]:
        units = [[unit.stage, unit.tag, unit.own] for unit in self.units]
        return {"units": units, "corpus": self.corpus, "speedrun": self.speedrun, "command": self.command}

    @staticmethod
    def of(values: dict[str, Any]) -> Order:
        units = [Unit(stage, tag, own) for stage, tag, own in values["units"]]
        return Order(units, values["corpus"], values["speedrun"], values["command"])


@dataclass
class Found:
    """A look at the base dir. new: steps to send, the newest first. files: small files that changed, with their time
    and size. gone: folders of steps there that are kept here no longer."""

    new: list[tuple[Unit, Step]] = field(default_factory=list)
    files: list[tuple[str, tuple[int, int]]] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        steps = sum(int(facts["size"]) for _, step in self.new for facts in step.manifest.files.values())
        return steps + sum(size for _, (_, size) in self.files)


def staging(url: str) -> Path:
    """The hidden folder of a backup's own files in the base dir."""
    return base_dir() / ".backup" / hashlib.sha256(url.encode(errors="surrogateescape")).hexdigest()[:12]


class Backup:
    """One backup to one target. tell: called with what there is to say, from this thread only."""

    def __init__(self, target: Target, tell: Tell) -> None:
        self.target, self.tell = target, tell
        self.order = Order([])
        self.writer = Writer(target, lambda text: tell({"say": text}))
        self.place = staging(target.url)
        self.marker = Marker()
        self.there: dict[str, int] = {}
        self.sent: dict[str, dict[int, str]] = {}  # unit -> step -> mark, of what is verified
        self.claimed: dict[str, tuple[object, str]] = {}  # unit -> its folder's identity and its run's id when it was
        self.damaged: dict[tuple[str, int, str], str] = {}
        self._seen: dict[str, tuple[int, int]] = {}  # small file -> time and size when it was last found to be there
        self._steps: dict[Path, tuple[object, Step]] = {}
        self._small_at = -1e9
        self._carded = False
        self._told = 0.0
        self._left = 0
        self.moved = time.monotonic()  # when a byte moved last

    def open(self) -> None:
        """Claim the target. UserError when it cannot be written, is another backup's, or of a newer version."""
        shutil.rmtree(self.place, ignore_errors=True)
        self.target.check()
        self.marker = read_marker(self.target) or self.marker
        self.writer.claim()
        self.there = self.target.files()
        if self.writer.sign(self.marker) or FILE not in self.there:
            self._put_marker()
        for old, tag in list(self.marker.moving.items()):
            stage, _, older = old.partition("/")
            self._move(Unit(stage, older), tag)

    def begin(self, order: Order) -> None:
        self.order = order
        for unit in order.units:
            there, rid = self._steps_there(unit), run_id(unit.stage, unit.tag)
            if unit.own and there and not self._is_same(unit, rid):
                url = self.target.url
                holds = f"Backup: {url} holds another run of {unit.name}, up to step {max(there):,}"
                kept = f"it is kept there as {self._free_tag(unit)} once this run has a checkpoint"
                text = f"{holds}; {kept}. To go on from it instead, stop this run and start: nanochat restore {url}"
                self.tell({"say": text})

    def look(self) -> Found:
        found = Found()
        for unit in self.order.units:
            steps = self._steps_here(unit)
            if not steps:
                continue
            self._claim_if_new(unit)
            sent = self.sent[unit.key]
            wanted = steps if unit.own else steps[-1:]
            found.new += [
                (unit, s) for s in wanted
                if sent.get(s.number) != s.mark and (unit.key, s.number, s.mark) not in self.damaged
            ]  # fmt: skip
            if unit.own and (safe := [s.number for s in steps if sent.get(s.number) == s.mark]):
                kept = checkpoint.steps(unit.stage, unit.tag)
                older = (n for n in self._steps_there(unit, whole=False) if n not in kept and n < max(safe))
                found.gone += [unit.step_folder(n) for n in older]
        found.new.sort(key=lambda pair: (pair[1].written, pair[1].number), reverse=True)
        # Another run there stays as it is until this one has something to put in its place, and when none began.
        begun = bool(self.claimed) or (bool(self.order.units) and not any(map(self._holds, self.order.units)))
        for path, owner in small_files(self.order.units, self.order.corpus, self.order.speedrun):
            if begun and (owner is None or owner.key in self.claimed):
                with contextlib.suppress(OSError):
                    facts = os.stat(base_dir() / path)
                    if self._seen.get(path) != (now := (facts.st_mtime_ns, facts.st_size)):
                        found.files.append((path, now))
        return found

    def act(self, found: Found, final: bool, small_first: bool) -> bool:
        """Do one piece of what was found; whether there was anything to do now."""
        self.writer.beat()
        self._left = found.bytes
        due = final or small_first or time.monotonic() - self._small_at >= self.target.small_every
        # Before the checkpoints that it says were begun, else it would begin anew. What it says of finished ones that
        # are not there yet, `restore` takes back.
        log = [file for file in found.files if file[0] == LOG]
        small = log or (found.files if due and (small_first or not found.new) else [])
        if not small and not found.new and not found.gone:
            if final and not self._carded:
                self._carded = True
                with contextlib.suppress(Exception):  # the Hub may refuse a card: a backup does without
                    self._send_card()
            return False
        self.writer.require_mine()
        if small:
            self._send_small(small)
        elif found.new:
            self._send(*found.new[0])
            self._small_at = -1e9  # what belongs to it follows
        else:
            self.target.remove(found.gone[0], MANIFEST)
            self._forget(found.gone[0])
        return True

    def has_lost(self) -> bool:
        """Whether the target no longer holds something that was sent: somebody may have deleted it since. The next look
        finds it anew."""
        self.there = self.target.files()
        lost = [path for path in self._seen if self.there.get(path) != self.marker.files[path]["size"]]
        for path in lost:
            del self._seen[path]
        for unit in self.order.units:
            for step in self._steps_here(unit):
                verified = self.sent.get(unit.key, {}).get(step.number) == step.mark
                manifest = f"{unit.step_folder(step.number)}/{MANIFEST}"
                if verified and not (manifest in self.there and self._has_all(unit, step)):
                    del self.sent[unit.key][step.number]
                    lost.append(manifest)
        if FILE not in self.there:
            self._put_marker()
            lost.append(FILE)
        return bool(lost)

    def unsafe(self, found: Found) -> list[str]:
        """What is here and not yet there."""
        names = [f"{unit.name} step {step.number:,}" for unit, step in found.new]
        files = [path for path, _ in found.files]
        if len(files) > 3:
            files = [*files[:3], f"{len(files) - 3} more files"]
        return [*names, *files, *self.damaged.values()]

    def safe(self) -> list[str]:
        """The newest step of each model that is verified to be there, and kept here."""
        out = []
        for unit in self.order.units:
            have = {s.number: s.mark for s in self._steps_here(unit)}
            verified = [n for n, mark in self.sent.get(unit.key, {}).items() if have.get(n) == mark]
            if verified:
                out.append(f"{unit.name} step {max(verified):,}")
        return out

    # What is here, and what is there

    def _steps_here(self, unit: Unit) -> list[Step]:
        """Whole steps, ascending."""
        out = []
        for number, folder in checkpoint.steps(unit.stage, unit.tag).items():
            try:
                facts = folder.stat()
            except OSError:
                continue
            now, known = (facts.st_dev, facts.st_ino, facts.st_mtime_ns), self._steps.get(folder)
            if known and known[0] == now:
                out.append(known[1])
            elif step := whole_step(number, folder):
                self._steps[folder] = now, step
                out.append(step)
        return out

    def _steps_there(self, unit: Unit, whole: bool = True) -> list[int]:
        """Steps in the backup. whole: only those with a manifest."""
        start, out = f"{unit.folder}/", set()
        for path in self.there:
            if path.startswith(start):
                name, _, rest = path.removeprefix(start).partition("/")
                if (m := STEP.fullmatch(name)) and (rest == MANIFEST or not whole):
                    out.add(int(m[1]))
        return sorted(out)

    def _mark_there(self, unit: Unit, number: int) -> str:
        with contextlib.suppress(FileNotFoundError, ValueError):
            data = self.target.read(f"{unit.step_folder(number)}/{MANIFEST}", LARGEST_MANIFEST)
            return hashlib.sha256(data).hexdigest()
        return ""

    def _claim_if_new(self, unit: Unit) -> None:
        """Before anything of a model is sent: is what is there of the same run? If not, that is set aside."""
        folder = base_dir() / unit.folder
        try:
            facts = folder.stat()
        except OSError:
            return
        now = (facts.st_dev, facts.st_ino)
        if unit.key in self.claimed and self.claimed[unit.key][0] == now:
            return
        rid = run_id(unit.stage, unit.tag)
        if self._holds(unit) and not self._is_same(unit, rid):
            self._set_aside(unit)
        sent: dict[int, str] = {}
        here = {step.number: step for step in self._steps_here(unit)}
        for number in self._steps_there(unit):
            step = here.get(number)
            if step and self._mark_there(unit, number) == step.mark and self._has_all(unit, step):
                sent[number] = step.mark  # its manifest came last, after every file was verified
        self.sent[unit.key], self.claimed[unit.key] = sent, (now, rid)
        command = {unit.key: self.order.command} if unit.own and self.order.command else {}
        if self.marker.runs.get(unit.key) != rid or not command.items() <= self.marker.commands.items():
            self.marker.runs[unit.key] = rid
            self.marker.commands.update(command)
            self._put_marker()

    def _has_all(self, unit: Unit, step: Step) -> bool:
        folder = unit.step_folder(step.number)
        return all(self.there.get(f"{folder}/{name}") == f["size"] for name, f in step.manifest.files.items())

    def _holds(self, unit: Unit) -> bool:
        return any(path.startswith((f"{unit.folder}/", f"{unit.runs}/")) for path in self.there)

    def _is_same(self, unit: Unit, rid: str) -> bool:
        """Whether what is there of a model is of the run that is here, and no further: a run that went back behind
        what was saved of it must not overwrite that."""
        here = {step.number: step.mark for step in self._steps_here(unit)}
        there = self._steps_there(unit)
        if max(there, default=0) > max(here, default=0):
            return False
        if rid and rid == self.marker.runs.get(unit.key):
            return True
        return any(n in here and self._mark_there(unit, n) == here[n] for n in reversed(there))

    def _free_tag(self, unit: Unit) -> str:
        n = 1
        while self._holds(replace(unit, tag=f"{unit.tag}.previous-{n}")):
            n += 1
        return f"{unit.tag}.previous-{n}"

    def _set_aside(self, unit: Unit) -> None:
        tag = self._free_tag(unit)
        self.marker.moving[unit.key] = tag
        self._put_marker()
        self._move(unit, tag)
        text = f"Backup: kept the older run of {unit.name} in {self.target.url} as {tag}"
        self.tell({"say": text})

    def _move(self, unit: Unit, tag: str) -> None:
        """Rename what is there of a model; after a kill, the rest of it."""
        new = replace(unit, tag=tag)
        for old_place, new_place in ((unit.folder, new.folder), (unit.runs, new.runs)):
            self.target.move(old_place, new_place)
            for path in [p for p in self.marker.files if p.startswith(f"{old_place}/")]:
                self.marker.files[path.replace(old_place, new_place, 1)] = self.marker.files.pop(path)
        for table in (self.marker.runs, self.marker.commands):
            if unit.key in table:
                table[new.key] = table.pop(unit.key)
        self.marker.moving.pop(unit.key, None)
        self._put_marker()
        self.there = self.target.files()
        for path in [p for p in self._seen if p.startswith(f"{unit.runs}/")]:
            del self._seen[path]

    # Sending

    def _send(self, unit: Unit, step: Step) -> None:
        held = self._held(unit, step)
        if held is None:
            return  # pruned just now
        folder = unit.step_folder(step.number)
        if f"{folder}/{MANIFEST}" in self.there and self.sent[unit.key].get(step.number) != step.mark:
            self.target.remove(folder, MANIFEST)  # of the same run, which wrote that step again
            self._forget(folder)
        files = {name: (int(f["size"]), str(f["sha256"])) for name, f in step.manifest.files.items()}
        files[MANIFEST] = (held / MANIFEST).stat().st_size, step.mark  # last
        try:
            items = [Item(f"{folder}/{name}", held / name, size, sha) for name, (size, sha) in files.items()]
            self.target.put(items, self._on_bytes)
        except DamagedHere as error:
            self.damaged[unit.key, step.number, step.mark] = f"{unit.name} step {step.number:,} ({error})"
            self.tell({"warn": f"warning: {error}: it is not backed up"})
            return
        except OSError:
            if held == step.folder and not step.folder.exists():
                return  # pruned meanwhile, where no second name of its files could be held
            raise
        finally:
            if held != step.folder:
                shutil.rmtree(held, ignore_errors=True)
        self.there.update({item.path: item.size for item in items})
        self.sent[unit.key][step.number] = step.mark
        self.tell({"say": f"Backup: {unit.name} step {step.number:,} is safe in {self.target.url}"})

    def _held(self, unit: Unit, step: Step) -> Path | None:
        """A folder with the step's files that a training does not delete under us: second names of them. None when
        they are gone."""
        held = self.place / unit.step_folder(step.number)
        shutil.rmtree(held, ignore_errors=True)
        try:
            for name in (*step.manifest.files, MANIFEST):
                (held / name).parent.mkdir(parents=True, exist_ok=True)
                os.link(step.folder / name, held / name)
            if hashlib.sha256((held / MANIFEST).read_bytes()).hexdigest() == step.mark:
                return held
        except FileNotFoundError:
            pass
        except OSError:  # this file system has no second names
            return step.folder
        shutil.rmtree(held, ignore_errors=True)
        return None

    def _send_small(self, files: list[tuple[str, tuple[int, int]]]) -> None:
        items, seen = [], {}
        place = self.place / "small"
        shutil.rmtree(place, ignore_errors=True)
        for path, facts in files:
            copy = place / path
            copy.parent.mkdir(parents=True, exist_ok=True)
            try:
                shutil.copyfile(base_dir() / path, copy)  # it may grow while it is sent
            except FileNotFoundError:
                continue
            sha256 = checkpoint.sha256(copy)
            seen[path] = facts
            was = self.marker.files.get(path, {}).get("sha256")
            cut = self.there.pop(spare_of(path), None) is not None
            if was != sha256 or self.there.get(path) != copy.stat().st_size or cut:
                items.append(Item(path, copy, copy.stat().st_size, sha256))
                self.marker.files[path] = {"size": items[-1].size, "sha256": sha256, **({"was": was} if was else {})}
        if self.order.speedrun and self.order.command:
            self.marker.commands["speedrun"] = self.order.command
        if items:
            self._put_marker(items)
            for item in items:
                self.there[item.path] = item.size
                self.marker.files[item.path].pop("was", None)
        self._seen.update(seen)
        self._small_at = time.monotonic()
        shutil.rmtree(place, ignore_errors=True)

    def _send_card(self) -> None:
        """What the last of the models is, in README.md, unless a person wrote the one that is there."""
        from nanochat.hub.card import is_ours, write_card

        units = [unit for unit in self.order.units if self.sent.get(unit.key)]
        if not units or (README in self.there and not is_ours(self.target.read(README, MB).decode(errors="replace"))):
            return
        last = next((unit for stage in ("sft", "rl", "mid") for unit in units if unit.stage == stage), units[0])
        data, copy = write_card(last.stage, last.tag, made="backup", repo=self.target.url).encode(), self.place / README
        self.place.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(data)
        self.target.put([Item(README, copy, len(data), hashlib.sha256(data).hexdigest())], self._on_bytes)
        self.there[README] = len(data)

    def _put_marker(self, items: list[Item] | None = None) -> None:
        """The marker first: it knows the hashes of a file before and after, so that a kill in between does no harm."""
        self.place.mkdir(parents=True, exist_ok=True)
        data, copy = self.marker.to_bytes(), self.place / FILE
        copy.write_bytes(data)
        item = Item(FILE, copy, len(data), hashlib.sha256(data).hexdigest())
        self.target.put([item, *(items or [])], self._on_bytes)
        self.there[FILE] = len(data)

    def _forget(self, folder: str) -> None:
        self.there = {path: size for path, size in self.there.items() if not path.startswith(f"{folder}/")}
        for unit in self.order.units:
            for number in [n for n in self.sent.get(unit.key, {}) if unit.step_folder(n) == folder]:
                del self.sent[unit.key][number]

    def _on_bytes(self, n: int) -> None:
        self.moved = now = time.monotonic()
        self._left = max(0, self._left - n)
        self.writer.beat()
        if now - self._told > 0.3:
            self._told = now
            self.tell({"left": self._left})
