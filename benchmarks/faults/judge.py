"""What is on the disk, and whether that is what was promised. It reads without nanochat's own code."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.faults.process import GRACE, Ended
from benchmarks.faults.works import KEEP, TAG, Work

STAGES = {"base": "base_checkpoints", "mid": "mid_checkpoints", "sft": "chatsft_checkpoints"}
REQUIRED = {"model.safetensors", "config.json", "tokenizer/meta.json", "train_state.json"}
LEFT = re.compile(r"\.(part|gone|old|fork)$")
# The promises. Breaking one of these loses something.
LOSSES = ("finished", "checkpoints_kept", "weights_equal", "metrics_whole")
CHECKS = (
    *LOSSES, "newest_resumed", "damage_named", "no_leftovers", "nothing_set_aside", "exit_codes", "stopped_in_time",
    "files_equal",
)  # fmt: skip


@dataclass
class Found:
    """A tag's checkpoints. whole, damaged: step -> folder. aside: steps that are whole in folders beside it. moving:
    those in a folder that the next start gives its name. finished: the work is done."""

    whole: dict[int, Path] = field(default_factory=dict)
    damaged: dict[int, Path] = field(default_factory=dict)
    aside: set[int] = field(default_factory=set)
    moving: set[int] = field(default_factory=set)
    rows: list[dict[str, Any]] = field(default_factory=list)
    finished: bool = False

    @property
    def newest(self) -> int:
        """0: none."""
        return max(self.whole, default=0)

    @property
    def last_step(self) -> int:
        """The last one that the metrics know."""
        return max((row["step"] for row in self.rows if row["kind"] == "step"), default=0)


@dataclass(frozen=True)
class Reference:
    """The undisturbed run. final: file -> hash in its last checkpoint. pinned: steps that are kept for good. moments,
    seconds: of each process."""

    final: dict[str, str]
    losses: list[tuple[int, float]]
    pinned: set[int]
    moments: list[dict[str, int]]
    seconds: list[float]


def look(base: Path, work: Work, spoilt: set[str]) -> Found:
    """spoilt: digests of checkpoints that were damaged on purpose."""
    root = base / STAGES[work.stage]
    found = Found(rows=[row for row in raw_rows(base, work) if row])
    for folder in _step_folders(root / TAG):
        whole = is_whole(folder) and digest(folder) not in spoilt
        (found.whole if whole else found.damaged)[_number(folder)] = folder
    for steps, pattern in ((found.aside, f"{TAG}.previous-*"), (found.moving, ".*.fork")):
        for aside in root.glob(pattern):
            steps.update(_number(folder) for folder in _step_folders(aside) if is_whole(folder))
    done = any(row["kind"] == "summary" and row["steps"] == work.steps for row in found.rows)
    found.finished = done and work.steps in found.whole
    return found


def _step_folders(tag: Path) -> list[Path]:
    """A step is the old folder while a writer that was killed had none under the right name."""
    named = {_number(path): path for path in tag.glob("step_*") if path.is_dir()}
    old = {_number(path): path for path in tag.glob(".step_*.old")}
    return list({**old, **named}.values())


def _number(folder: Path) -> int:
    match = re.fullmatch(r"\.?step_(\d+)(\.old)?", folder.name)
    assert match, folder
    return int(match[1])


def hashes(folder: Path) -> dict[str, str]:
    """Of every file of a checkpoint."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def digest(folder: Path) -> str:
    return hashlib.sha256(json.dumps(hashes(folder)).encode()).hexdigest()


def is_whole(folder: Path) -> bool:
    """Whether the manifest can be read and every file is as it says."""
    try:
        listed = json.loads((folder / "manifest.json").read_bytes())["files"]
        there = hashes(folder)
        return set(listed) >= REQUIRED and all(there.get(name) == facts["sha256"] for name, facts in listed.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def raw_rows(base: Path, work: Work) -> list[dict[str, Any] | None]:
    """The lines of metrics.jsonl as they are, None for one that cannot be read."""
    path = base / f"runs/{work.stage}-{TAG}/metrics.jsonl"
    rows: list[dict[str, Any] | None] = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            rows.append(None)
    return rows


def reference(base: Path, work: Work, ended: list[Ended]) -> Reference:
    """From the base dir of a run that nothing disturbed."""
    found = look(base, work, set())
    if not found.finished:
        raise RuntimeError(f"{work.name} does not even finish undisturbed: {ended[0].out}\n{ended[0].err}")
    return Reference(
        weights(found.whole[work.steps]),
        [(row["step"], row["loss"]) for row in found.rows if row["kind"] == "step"],
        set(sorted(found.whole)[:-KEEP]),
        [one.moments for one in ended],
        [one.seconds for one in ended],
    )


def weights(folder: Path) -> dict[str, str]:
    """Hashes of the model's and the optimiser's files."""
    return {name: value for name, value in hashes(folder).items() if name.endswith(".safetensors")}


def after_try(
    work: Work, wanted: Reference, before: Found, after: Found, ended: list[Ended], named: dict[int, Path]
) -> list[tuple[str, str]]:
    """Promises that one try broke: check and explanation. named: damaged checkpoints that a resume must not take, and
    which of their files was changed, for their step."""
    main = ended[0]
    broken = [("checkpoints_kept", problem) for problem in _missing(wanted, before, after, ended)]
    if said := re.search(r"^Resuming (\S+) at step (\d+) of", main.out, re.M):
        expected = _expected(work, before)
        step = int(said[2])
        # A changed manifest may still say the same.
        harmless = {
            s for s, file in named.items() if s > expected and s in before.damaged and file.name == "manifest.json"
        }
        if step != expected and step not in harmless:
            broken.append(("newest_resumed", f"resumed at {step}, and the newest whole checkpoint is {expected}"))
        for number, folder in before.damaged.items():
            if number > step and str(folder) not in main.err:
                broken.append(("damage_named", f"{folder} is damaged, and nothing says so"))
    elif _expected(work, before) and main.code is not None and (after.last_step > before.last_step or main.code == 0):
        broken.append(("newest_resumed", f"did not resume at {_expected(work, before)}"))
    broken += [("exit_codes", problem) for place, one in enumerate(ended) if (problem := _exit(work, place, ended))]
    for one in ended:
        asked = [row["time"] for row in one.struck if row["do"] == "term"] + ([one.told] if one.told else [])
        hung = any(row["do"] in ("hang", "stop") for row in one.struck)
        if one.hung or (asked and not hung and one.ended - min(asked) > GRACE):
            broken.append(("stopped_in_time", f"a process did not end: {one.err[-2000:]}"))
    return broken


def _expected(work: Work, before: Found) -> int:
    """The step to go on from."""
    finished = any(row["kind"] == "summary" for row in before.rows)  # the run that is to be extended
    return work.first if before.newest == work.extends and finished else before.newest


def _missing(wanted: Reference, before: Found, after: Found, ended: list[Ended]) -> list[str]:
    """Checkpoints that were whole and cannot be used any more, though they should have been kept."""
    lost = []
    for step in before.whole.keys() | {step for one in ended for step in one.saved}:
        newer = [other for other in after.whole if other > step]
        replaced = len(newer) >= KEEP and step not in wanted.pinned
        if step not in after.whole.keys() | after.aside | after.moving and not replaced:
            lost.append(f"step {step} was whole, and now there are {sorted(after.whole)}")
    if gone := (before.aside | before.moving) - (after.aside | after.moving | after.whole.keys()):
        lost.append(f"of an older run, the steps {sorted(gone)} are gone")
    return lost


def _exit(work: Work, place: int, all_ended: list[Ended]) -> str:
    """What is wrong with how a process ended, "" if nothing is."""
    one = all_ended[place]
    if one.code is None:
        return ""
    did = {row["do"] for row in one.struck}
    others = {row["do"] for other in all_ended if other is not one for row in other.struck}
    download = work.name == "arriving" and place == 1
    allowed = {0}
    if "kill" in did:
        allowed |= {-9}
    if "term" in did:
        allowed |= {143} if download else {75}
    if "fail" in did:
        allowed |= {2}
    if did & {"hang", "stop"}:
        allowed |= {1, -9}
    if one.told:
        allowed |= {-9}  # whether that took too long is another question
    if others:  # a rank cannot go on alone, nor a training whose text does not come
        allowed |= {2} if work.name == "arriving" else {1, 2, 75}
    if one.code not in allowed:
        return f"exit code {one.code}, not one of {sorted(allowed)}: {one.out[-1000:]}\n{one.err[-3000:]}"
    lines = [line for line in one.err.splitlines() if line.startswith("error:")]
    if one.code == 2 and (len(lines) != 1 or "Traceback" in one.err):
        return f"exit code 2 without one line that says why: {one.err[-3000:]}"
    if one.code == 1 and did == {"hang"} and "no step for" not in one.err:
        return f"a hanging step was not reported: {one.err[-3000:]}"
    # One that freezes before the first step is noticed by who waits for it to come.
    if others == {"stop"} and not did and one.code == 1 and not re.search("no step for|[tT]imed? ?out", one.err):
        return f"a hanging rank was not reported: {one.err[-3000:]}"
    return ""


def at_the_end(base: Path, work: Work, wanted: Reference, may_be_aside: bool) -> list[tuple[str, str]]:
    """Promises that the finished run breaks. may_be_aside: all checkpoints were once damaged."""
    broken: list[tuple[str, str]] = []
    found = look(base, work, set())
    if not found.finished:
        return [("finished", f"there are the steps {sorted(found.whole)}, and {len(found.rows)} rows of metrics")]
    have = weights(found.whole[work.steps])
    if have != wanted.final:
        differ = [name for name in wanted.final | have if wanted.final.get(name) != have.get(name)]
        broken.append(("weights_equal", f"after step {work.steps} these differ: {', '.join(differ)}"))
    rows = raw_rows(base, work)
    losses = [(row["step"], row["loss"]) for row in rows if row and row["kind"] == "step"]
    if losses != wanted.losses:
        missing = [step for step, _ in wanted.losses if step not in dict(losses)]
        twice = [step for step, count in Counter(step for step, _ in losses).items() if count > 1]
        broken.append(("metrics_whole", f"missing {missing}, twice {twice}, or other losses"))
    single = Counter(row["kind"] for row in rows if row)
    if None in rows or single["settings"] != 1 or single["summary"] != 1:
        broken.append(("metrics_whole", f"rows: {dict(single)}, unreadable: {rows.count(None)}"))
    left = [str(path) for path in base.rglob("*") if LEFT.search(path.name)]
    if left:
        broken.append(("no_leftovers", ", ".join(left)))
    aside = len(list((base / STAGES[work.stage]).glob(f"{TAG}.previous-*")))
    if aside > bool(work.extends) and not may_be_aside:
        broken.append(("nothing_set_aside", f"{aside} older runs, with nothing wrong with them"))
    for name, data in work.shards.items():
        path = base / "data/climbmix" / name
        if not path.exists() or path.read_bytes() != data:
            broken.append(("files_equal", f"{path} is not as the server has it"))
    return broken
