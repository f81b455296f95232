"""Which parts of base_eval to run: CORE needs data that may have to be downloaded, and keeps what it finished.

Torch is imported when CORE needs it, so that a wrong flag is reported at once.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nanochat.console import UserError, say, warn
from nanochat.corpus import HUB_CORPORA
from nanochat.eval.bundle import agreed, download_bundle, missing_bundle
from nanochat.eval.results import TaskResult, code
from nanochat.paths import eval_bundle_dir

if TYPE_CHECKING:
    from nanochat.eval.hf import HFSubject
    from nanochat.eval.subject import Subject

PARTS = ("core", "bpb", "sample")


def chosen_parts(asked: str) -> set[str]:
    """The parts in "core,bpb", or all of them for ""; UserError for an unknown one."""
    parts = {part.strip() for part in asked.split(",")} if asked else set(PARTS)
    if not parts <= set(PARTS):
        raise UserError(
            f"--eval={asked} asks for {', '.join(sorted(parts - set(PARTS)))}",
            f"Choose from {', '.join(PARTS)}",
        )
    return parts


@dataclass(frozen=True)
class CoreAsked:
    """What is asked of CORE. tasks: separated by commas, "" for all. max_per_task: questions of each, -1 for all.

    shots: examples in a prompt, -1 for as many as each task has. csv: file for the table. only: the model can be
    graded on nothing else.
    """

    tasks: str = ""
    max_per_task: int = -1
    shots: int = -1
    rules: str = "nanochat"
    csv: Path | None = None
    only: bool = False

    def __post_init__(self) -> None:
        if self.max_per_task == 0 or self.max_per_task < -1:
            raise UserError(f"--max_per_task is {self.max_per_task}", "Give a positive number, or -1 for all questions")
        if self.shots < -1:
            raise UserError(f"--shots is {self.shots}", "Give 0 or more, or -1 for as many as each task has")

    @property
    def labels(self) -> list[str]:
        return [name for name in map(str.strip, self.tasks.split(",")) if name]

    @property
    def something(self) -> bool:
        """Whether a flag asks for something that only CORE has."""
        return bool(self.labels or self.csv or self.only)

    @property
    def whole(self) -> bool:
        """Whether the mean of the tasks is CORE."""
        return not self.labels and self.shots < 0


def missing_core(asked: CoreAsked, parts: Collection[str], by_name: bool, dataset: str) -> str | None:
    """One line on why CORE must be skipped, or None when its data is here, or CORE is not among the parts.

    The data is downloaded when the person wants CORE; if the text is from the Hub, this is tried. by_name: whether the
    parts were named. dataset: the text that was named. UserError for what cannot be done.
    """
    if asked.something and "core" not in parts:
        raise UserError("--tasks, --csv and --hf_path are for CORE", "Add core to --eval")
    if "core" not in parts:
        return None
    from nanochat.eval.core import read_tasks

    bundle, wanted = eval_bundle_dir(), asked.something or by_name
    if wanted or dataset in HUB_CORPORA:
        try:
            download_bundle(bundle)
        except UserError as error:
            if wanted:
                raise
            warn(str(error))  # the text came from a network, so we tried; a failure must not end the run
    if not (missing := missing_bundle(bundle)):
        read_tasks(bundle, asked.labels)  # report an unknown name before the model is loaded
    elif wanted:
        raise UserError(missing.removeprefix("CORE is skipped: "))
    return missing


def grade_core(
    subject: Subject | HFSubject, asked: CoreAsked, missing: str | None, batch_tokens: int
) -> tuple[float | None, dict[str, TaskResult]]:
    """CORE (None if only a part of it was asked for) and every task's result; both are shown.

    missing: what `missing_core` told this rank. batch_tokens: ids per forward pass, padding included.
    """
    from nanochat.eval.core import evaluate_core, show, write_csv
    from nanochat.eval.core_kept import Kept, kept_file

    if missing := agreed(missing):
        say(missing)
        return None, {}
    model, tokenizer = subject.model, subject.tokenizer
    facts = {"tokenizer": tokenizer.hash, "config": str(model.config), "dtype": str(model.dtype), **code()}
    kept = Kept(kept_file(subject.facts), facts)
    limit = asked.max_per_task if asked.max_per_task > 0 else None
    shots = asked.shots if asked.shots >= 0 else None
    bundle = eval_bundle_dir()
    mean, tasks = evaluate_core(model, tokenizer, bundle, limit, asked.labels, asked.rules, kept, batch_tokens, shots)
    show(tasks, asked.whole)
    if asked.csv:
        write_csv(asked.csv, tasks, asked.whole)
    return mean if asked.whole else None, tasks
