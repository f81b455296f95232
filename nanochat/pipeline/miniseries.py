"""A depth sweep: models of several depths, trained alike, and their scaling law.

Every depth is trained by base_train in a process and a base folder of its own, <base>/miniseries/<name>/d<depth>, with
links to the tokenizer and the data: so a sweep replaces neither the newest base model nor its metrics. The name
contains a hash of the settings, so a finished depth is found again under the same settings only.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat import lock, scale
from nanochat.console import UserError, duration, flags_of, require_version, say, warn
from nanochat.corpus import load_info
from nanochat.machine import Machine, Ranks, describe, peak_flops, setup
from nanochat.metrics import FILE, MetricsWriter, last, read_metrics, training_file
from nanochat.model import ModelConfig
from nanochat.paths import base_dir, runs_dir, slug, tokenizer_dir, write_atomic, write_json
from nanochat.pipeline.law import Law, fit, picture
from nanochat.pipeline.settings import rank_count
from nanochat.pipeline.speedrun import GRACE, run_stage
from nanochat.pipeline.stages import Plan, Stage
from nanochat.train import BaseConfig, changed_settings, check_config, fingerprint, horizon

if TYPE_CHECKING:
    pass

VERSION = 1
EVAL_TOKENS = 1 << 19  # of validation; by default a training uses more for deeper models
OWN = ("depth", "model_tag", "resume", "time_budget", "target_flops")  # settings that a sweep decides by itself


@dataclass
class MiniseriesConfig:
    """Train models of several depths alike and fit how bits per byte fall with compute."""

    depths: str = "2,4,6,8"
    """depths of the models in layers, at least two, separated by commas"""
    dataset: str = BaseConfig.dataset
    """corpus to train on: a name, or a folder prepared by python -m nanochat.dataset"""
    target_param_data_ratio: float = BaseConfig.target_param_data_ratio
    """tokens per scaling parameter (matrices and head)"""
    json: Path | None = None
    """another file for the results, besides results.json"""
    dry_run: bool = False
    """print what every depth would cost and stop"""


@dataclass(frozen=True)
class Cost:
    """What a depth costs. tokens, flops: of training. batch: tokens per step. passes: over the training text; None
    while shards are still arriving."""

    depth: int
    scaling_params: int
    tokens: int
    batch: int
    flops: int
    passes: float | None

    def __str__(self) -> str:
        passes = "" if self.passes is None else f", {self.passes:.2g} passes over the text"
        return f"{self.scaling_params:,} scaling parameters, {self.tokens:,} tokens, {self.flops:.3g} FLOPs{passes}"


@dataclass(frozen=True)
class DepthResult:
    """The result of a depth. seconds: of training, compilation included. tok_per_s: the median over the steps."""

    depth: int
    params: int
    scaling_params: int
    tokens: int
    flops: int
    val_bpb: float
    seconds: float
    tok_per_s: float


class Sweep:
    """The settings that all depths share, and the folder that belongs to them."""

    def __init__(self, depths: list[int], base: BaseConfig):
        """UserError for settings that a sweep cannot keep equal, and when there is no tokenizer or text."""
        import torch

        from nanochat.tokenizer import Tokenizer
        from nanochat.train import text_tokens

        check_config(base)
        if base.backup or base.on_finish:
            raise UserError("a sweep has no backup", "Leave --backup and --on_finish out; copy its folder instead")
        if changed_settings := [name for name in OWN if getattr(base, name) != getattr(BaseConfig, name)]:
            raise UserError(
                f"--{changed_settings[0]} cannot be given to a sweep over depths",
                "Set each training's length with --target_param_data_ratio or --num_iterations; sweeps always resume",
            )
        self.depths = depths
        self.base = replace(
            base,
            max_seq_len=base.max_seq_len or scale.default_seq_len(depths[-1]),
            eval_every=base.eval_every or -1,
            eval_tokens=base.eval_tokens or EVAL_TOKENS,
        )
        gpus = torch.cuda.device_count() if torch.cuda.is_available() and base.device in ("auto", "cuda") else 0
        self.nproc = rank_count(os.environ.get("NPROC_PER_NODE", ""), gpus)
        tokenizer = Tokenizer.load(tokenizer_dir())
        corpus = load_info(base.dataset)
        self.vocab_size = tokenizer.vocab_size
        self._text_tokens = text_tokens(corpus, tokenizer)
        self.settings: dict[str, Any] = {
            **fingerprint(self.base),
            **horizon(self.base),
            "eval_tokens": self.base.eval_tokens,
            "tokenizer": tokenizer.hash,
            "train_bytes": corpus.train_size,
            "world_seed": corpus.settings.get("world_seed"),
        }
        for name in OWN:
            self.settings.pop(name, None)
        # Default values are left out, so that a version with more flags still finds a sweep.
        usual = {**fingerprint(BaseConfig()), **horizon(BaseConfig())}
        told = {name: value for name, value in self.settings.items() if name not in usual or usual[name] != value}
        folder, older = (base_dir() / "miniseries" / f"{slug(corpus.name)}-{_mark(x)}" for x in (told, self.settings))
        self.folder = older if older.exists() and not folder.exists() else folder

    def home(self, depth: int) -> Path:
        """The base folder of one depth's training."""
        return self.folder / f"d{depth}"

    def cost(self, depth: int) -> Cost:
        import torch

        from nanochat.train import make_plan

        base = self.base
        windows = base.window_pattern.upper()
        model = ModelConfig.from_depth(depth, self.vocab_size, base.max_seq_len, base.arch, windows, base.bigram)
        # Neither device nor dtype matter to a plan without a time budget.
        machine = Machine(torch.device("cpu"), torch.float32, Ranks(world=self.nproc))
        plan = make_plan(replace(base, depth=depth), model, machine, 0.0)
        tokens = plan.steps * plan.batch_tokens
        passes = tokens / self._text_tokens if self._text_tokens else None
        flops = model.flops_per_token * tokens
        return Cost(depth, model.shape.scaling_params, tokens, plan.batch_tokens, flops, passes)

    def stage(self, depth: int) -> Stage:
        """The training of one depth; a flag for everything that is not base_train's default."""
        flags = []
        for field in fields(BaseConfig):
            value = getattr(replace(self.base, depth=depth), field.name)
            if value != field.default:
                flags.append(f"--{field.name}" if value is True else f"--{field.name}={value}")
        return Stage("base_train", tuple(flags), torchrun=True, resumable=True)

    def finished(self, depth: int) -> DepthResult | None:
        path = self.home(depth) / "result.json"
        try:
            values = json.loads(path.read_text())
            require_version(values.pop("version", VERSION), VERSION, f"{path}")
            measured = values.pop("settings", self.settings)
            if changed_settings(measured, self.settings, BaseConfig()):
                return None  # made by a version with other defaults
            return DepthResult(**values)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, AttributeError):
            warn(f"warning: {path} is damaged; depth {depth} is measured again")
            return None

    def started(self, depth: int) -> bool:
        return any(self.home(depth).glob("base_checkpoints/*/step_*"))


def run_miniseries(config: MiniseriesConfig, base: BaseConfig) -> None:
    """Train what is not finished yet, then fit, print and save; see MiniseriesConfig.

    base: how every depth is trained; its dataset and ratio count, not the config's.
    """
    sweep = Sweep(parse_depths(config.depths), base)
    costs = [sweep.cost(depth) for depth in sweep.depths]
    if config.dry_run:
        _tell(sweep, costs)
        return
    for cost in costs:
        if cost.passes is not None and cost.passes > 1:
            warn(
                f"warning: depth {cost.depth} reads the text {cost.passes:.2g} times; "
                "repeated text teaches less than new text, which the law ignores"
            )
    with lock.hold(sweep.folder / "lock", f"another miniseries is at work in {sweep.folder}", GRACE) as handle:
        results = []
        for n, cost in enumerate(costs, 1):
            result = sweep.finished(cost.depth)
            say(f"\n[{n}/{len(costs)}] depth {cost.depth}: {'done already, skipped' if result else cost}")
            results.append(result or _train(sweep, cost, handle))
        _conclude(sweep, results, config.json)


def parse_depths(text: str) -> list[int]:
    """ "2,4,6" as ascending numbers, at least two."""
    if not re.fullmatch(r"\d+(,\d+)*", text) or 0 in (depths := sorted({int(part) for part in text.split(",")})):
        raise UserError(f"--depths={text} is not a list of depths", "Write them as in --depths=2,4,6,8")
    if len(depths) < 2:
        raise UserError(f"--depths={text} is one depth, and a law needs at least two depths", "Give more of them")
    return depths


def _mark(settings: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]


def _tell(sweep: Sweep, costs: list[Cost]) -> None:
    machine = setup(sweep.base.device, sweep.base.dtype)
    speed = scale.EFFICIENCY * peak_flops(machine) * sweep.nproc
    count = f", {sweep.nproc} processes" if sweep.nproc > 1 else ""
    say(f"miniseries of {sweep.base.dataset} on {describe(machine)}{count}; nothing is trained")
    for cost in costs:
        done = sweep.finished(cost.depth)
        state = "done" if done else "to go on" if sweep.started(cost.depth) else "to run"
        say(f"  d{cost.depth:<3} [{state}]  {cost}, about {duration(cost.flops / speed)}")
    total = sum(cost.flops for cost in costs)
    say(f"  all of them {total:.3g} FLOPs, about {duration(total / speed)} at {speed:.3g} FLOP/s (assumed)")


def _train(sweep: Sweep, cost: Cost, handle: int) -> DepthResult:
    """One depth in a process of its own, from where an earlier one stopped; UserError when it could not run."""
    home, stage = sweep.home(cost.depth), sweep.stage(cost.depth)
    for name in ("tokenizer", "data"):
        _link(home, name)
    plan = Plan((stage,), sweep.nproc, "", "", "", tuple(flags_of(MiniseriesConfig, BaseConfig)))
    say(stage.display(sweep.nproc))
    with _base_folder(home):
        try:
            run_stage(stage, plan, True, handle)
        except UserError:
            raise UserError(
                f"depth {cost.depth} could not be trained",
                "The line above says why; depths that are finished stay finished",
            ) from None
        summary = last(read_metrics(training_file("base", f"d{cost.depth}")), "summary")
    if summary is None:
        raise UserError(f"the training of depth {cost.depth} left no summary in {home}", "Run the same command again")
    if "val_bpb" not in summary:
        raise UserError(
            f"depth {cost.depth} could not be evaluated at its end, so that the law lacks it",
            "The warning above says why; run the same command again",
        )
    found = {f.name: summary[f.name] for f in fields(DepthResult) if f.name in summary}
    result = DepthResult(depth=cost.depth, scaling_params=cost.scaling_params, **found)
    write_json(home / "result.json", {"version": VERSION, "settings": sweep.settings, **asdict(result)})
    return result


def _link(home: Path, name: str) -> None:
    """Link home/name to <base>/name; the link is relative, so that the whole base folder can be moved."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        if not (home / name).is_symlink():
            (home / name).symlink_to(Path("../../..") / name, target_is_directory=True)
    except OSError as error:
        problem = f"cannot make the link {home / name}: {error.strerror}"
        raise UserError(problem, "Set NANOCHAT_BASE_DIR to a writable disk that supports symbolic links") from None


@contextmanager
def _base_folder(folder: Path) -> Iterator[None]:
    """NANOCHAT_BASE_DIR is `folder` for the processes started within."""
    before = os.environ.get("NANOCHAT_BASE_DIR")
    os.environ["NANOCHAT_BASE_DIR"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["NANOCHAT_BASE_DIR"]
        else:
            os.environ["NANOCHAT_BASE_DIR"] = before


@dataclass(frozen=True)
class Conclusion:
    """law: None when bits per byte do not fall. held_out: prediction of the smaller depths' law for the largest."""

    results: list[DepthResult]
    law: Law | None
    held_out: float | None

    @classmethod
    def of(cls, results: list[DepthResult]) -> Conclusion:
        """results: at least two, by ascending depth."""
        flops, bpb = [r.flops for r in results], [r.val_bpb for r in results]
        smaller = fit(flops[:-1], bpb[:-1]) if len(results) > 2 else None
        return cls(results, fit(flops, bpb), smaller.at(flops[-1]) if smaller else None)

    def residuals(self) -> list[float]:
        """Measured minus fitted bits per byte; [] without a law."""
        return [r.val_bpb - self.law.at(r.flops) for r in self.results] if self.law else []


def _conclude(sweep: Sweep, results: list[DepthResult], copy: Path | None) -> None:
    """Fit, print and save. Nothing here changes what `scale` says."""
    found = Conclusion.of(results)
    law, largest = found.law, results[-1]
    gap = largest.depth - results[-2].depth
    further = [sweep.cost(largest.depth + n * gap) for n in (1, 2)] if law else []
    say()
    _table(found)
    if law is None:
        say("Bits per byte do not fall from depth to depth, so no law fits them")
    else:
        rms = math.sqrt(sum(r * r for r in found.residuals()) / len(results))
        exact = (3 if law.floor else 2) >= len(results)
        note = " (as many parameters as depths, so the residuals prove nothing)" if exact else ""
        say(f"Law: bits per byte = {law}; residuals {rms:.4f} (root mean square){note}")
    if found.held_out is not None:
        miss = found.held_out - largest.val_bpb
        say(
            f"Check: the law of the smaller depths predicts {found.held_out:.4f} for d{largest.depth}, "
            f"measured {largest.val_bpb:.4f} ({miss:+.4f})"
        )
    speed = largest.flops / largest.seconds
    for cost in further:
        assert law
        say(
            f"Extrapolated, not measured: d{cost.depth} {law.at(cost.flops):.4f} bits per byte after "
            f"{cost.flops:.3g} FLOPs, {cost.tokens:,} tokens, about {duration(cost.flops / speed)} here"
        )
    deepest = further[-1].depth if further else largest.depth
    if sweep.base.arch == "modern" and results[0].depth < scale.SMALL_DEPTH <= deepest:
        warn(
            f"note: models from depth {scale.SMALL_DEPTH} on have no table of token pairs, "
            "so one law may not hold on both sides"
        )
    batches = [cost.batch for cost in (*map(sweep.cost, sweep.depths), *further)]
    if min(batches) <= scale.SMALL_BATCH < max(batches):
        warn(
            f"note: batches here have {min(batches):,} to {max(batches):,} tokens; up to {scale.SMALL_BATCH:,} the "
            "learning rates and updates differ, so one law may not hold on both sides"
        )
    _save(sweep, found, further, copy)


def _table(found: Conclusion) -> None:
    say("depth   parameters      scaling          tokens     FLOPs  val bpb residual     time      tok/s")
    for r, residual in zip(found.results, found.residuals() or [math.nan] * len(found.results), strict=True):
        say(
            f"d{r.depth:<4} {r.params:>12,} {r.scaling_params:>12,} {r.tokens:>15,} {r.flops:>9.3g} {r.val_bpb:>8.4f} "
            f"{round(residual, 4) + 0.0:>+8.4f} {duration(r.seconds):>8} {r.tok_per_s:>10,.0f}"
        )


def _save(sweep: Sweep, found: Conclusion, further: list[Cost], copy: Path | None) -> None:
    law, results, residuals = found.law, found.results, found.residuals()
    seconds = sum(r.seconds for r in results)
    expected = {f"d{c.depth}": (float(c.flops), law.at(c.flops)) for c in further} if law else {}
    record: dict[str, Any] = {
        "version": VERSION,
        "command": "miniseries",
        "settings": sweep.settings,
        "depths": [asdict(r) for r in results],
        "law": {**asdict(law), "residuals": residuals} if law else None,
        "held_out": {"depth": results[-1].depth, "predicted": found.held_out, "measured": results[-1].val_bpb}
        if found.held_out is not None
        else None,
        "extrapolated": [{**asdict(c), "val_bpb": expected[f"d{c.depth}"][1]} for c in further],
        "seconds": round(seconds, 3),
    }
    folder = sweep.folder
    write_json(folder / "results.json", record)
    if copy:
        write_json(copy, record)
    rows = io.StringIO()
    writer = csv.DictWriter(rows, [f.name for f in fields(DepthResult)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(r) for r in results)
    write_atomic(folder / "results.csv", rows.getvalue())
    measured = {f"d{r.depth}": (float(r.flops), r.val_bpb) for r in results}
    write_atomic(folder / "scaling.png", picture(measured, law, expected))
    metrics = MetricsWriter(runs_dir("miniseries") / FILE)
    metrics.write("settings", **sweep.settings)
    metrics.write(
        "summary",
        seconds=seconds,
        val_bpb={f"d{r.depth}": r.val_bpb for r in results},
        law=f"{law}" if law else None,
        extrapolated={name: bpb for name, (_, bpb) in expected.items()},
        folder=str(folder),
    )
    say(f"Results: {folder} (results.json, results.csv, scaling.png)")
