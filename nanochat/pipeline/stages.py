"""A speedrun's stages: each is a command with its arguments."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from nanochat.paths import STAGES, eval_bundle_dir
from nanochat.pipeline.spending import Bill


@dataclass(frozen=True)
class Stage:
    """One command.

    output: pattern of its output under the base dir, for later stages or the user; "" for none.
    inputs: the user's files and folders that it reads. torchrun: runs on all GPUs. resumable: accepts --resume.
    extra: arguments that do not change the output.
    """

    name: str
    args: tuple[str, ...]
    output: str = ""
    inputs: tuple[Path, ...] = ()
    torchrun: bool = False
    resumable: bool = False
    extra: tuple[str, ...] = ()
    module: str = ""  # when it is not scripts.<name>
    trains: str = ""  # the stage of the model that it trains

    def display(self, nproc: int) -> str:
        module = self.module or f"scripts.{self.name}"
        if self.torchrun and nproc > 1:
            start = f"torchrun --standalone --nproc_per_node={nproc} -m {module} --"
        else:
            start = f"python -m {module}"
        return " ".join([start, *map(shlex.quote, (*self.args, *self.extra))])


@dataclass(frozen=True)
class Plan:
    stages: tuple[Stage, ...]
    nproc: int
    summary: str
    corpus: str
    tag: str
    flags: tuple[str, ...] = ()  # of the user's command: a stage's remedies mention only these
    bill: Bill | None = None
    length: str = ""  # of the pretraining, where a recipe decides it


@dataclass(frozen=True)
class Arguments:
    """What the stages of one speedrun get, without what they all get.

    prepare: of the dataset stage, --dataset first. data: the user's own conversations. general: whether others are
    learnt beside them; without, there is nothing to grade chats by. tasks: to grade chats by; "": all. free: of every
    training, without influence on its result. rows: the same, of base_train and mid_train.
    """

    prepare: tuple[str, ...]
    corpus: str
    tag: str
    tokenizer: tuple[str, ...]
    base: tuple[str, ...]
    mid: tuple[str, ...] = ()
    sft: tuple[str, ...] = ()
    report: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    general: bool = True
    strict: bool = False
    tasks: str = ""
    free: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()


def all_stages(a: Arguments) -> tuple[Stage, ...]:
    """Every stage, in order."""
    own = tuple(Path(path).resolve() for path in a.data)
    files = ("--data", *map(str, own)) if own else ()
    files += () if a.general else ("--no_general",)
    strict = ("--strict",) if own and a.strict else ()
    path = Path(a.prepare[0].removeprefix("--dataset="))
    source = (path,) if path.is_absolute() else ()
    wanted = ("-a", a.tasks) if a.tasks else ()
    corpus, model = f"--dataset={a.corpus}", f"--model_tag={a.tag}"

    def training(name: str, stage: str, args: tuple[str, ...], *extra: str) -> Stage:
        output = f"{STAGES[stage]}/{a.tag}/step_*/manifest.json"
        inputs = () if stage == "base" else own
        extra = (*a.free, *extra)
        return Stage(name, args, output, inputs, torchrun=True, resumable=True, extra=extra, trains=stage)

    stages = (
        Stage("dataset", a.prepare, f"data/{a.corpus}/meta.json", source, module="nanochat.dataset"),
        Stage("tok_train", (corpus, *a.tokenizer), "tokenizer/meta.json"),
        Stage("tok_eval", (corpus,)),
        training("base_train", "base", (*a.base, model), *a.rows),
        Stage("base_loss", (corpus, model), torchrun=True),
        Stage("base_eval", (corpus, model), inputs=(eval_bundle_dir(),), torchrun=True),
        training("mid_train", "mid", (*a.mid, model, *files), *a.rows, *strict),
        Stage("mid_eval", ("-i", "mid", model, *wanted), torchrun=True, module="scripts.chat_eval"),
        training("chat_sft", "sft", (*a.sft, model, *files), *strict),
        Stage("chat_eval", ("-i", "sft", model, *wanted), torchrun=True),
        Stage("report", ("generate", model, *a.report), "report/report.md", module="nanochat.report"),
    )
    return tuple(stage for stage in stages if a.general or stage.name not in ("mid_eval", "chat_eval"))
