"""Pretraining: tokens a second, peak memory, and bits per byte after given minutes of wall-clock.

The step: forward, backward and update on random ids, each measurement in a fresh process, ours and the peer's in turns.
--minutes: whole trainings from the same start on the same text and tokenizer, compilation included. The peer runs its
own scripts.base_train with the settings of its runs/runcpu.sh (T 512, heads of 64, full windows), its number of steps
scaled to the time by its measured speed, at the best of three batch sizes; ours is told the time and nothing else.
Bits per byte are measured for both by the same code on the same text. Peer runs are kept under the base dir by commit
and settings, so that repeating costs nothing.

    python -m benchmarks.train --peer ../nanochat --json result.json
    python -m benchmarks.train --peer ../nanochat --minutes 5 10 20 --json result.json
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.result import BenchmarkResult, median

DTYPES = ("float32", "bfloat16")
VOCAB, SEQ_LEN = 8192, 512
NAME = "benchmark"
PEER_NAMES = {  # parts of the names of upstream's weights, and ours
    "transformer.wte": "embed", "transformer.h": "blocks", "lm_head": "head", "attn.c_proj": "attn.out",
    "attn.c_q": "attn.q", "attn.c_k": "attn.k", "attn.c_v": "attn.v", "attn.ve_gate": "attn.gate",
    "mlp.c_fc": "mlp.up", "mlp.c_proj": "mlp.down",
}  # fmt: skip
WARM = 4  # steps that do not count


@dataclass
class Config:
    depths: tuple[int, ...] = (4, 6)
    """Layers of the models whose step is timed."""
    rows: int = 8
    """Sequences of 512 tokens a step."""
    steps: int = 24
    """Steps of one measurement."""
    repeats: int = 3
    """Measurements of each, in turns."""
    minutes: tuple[float, ...] = ()
    """Wall-clock of whole trainings to compare; empty: none."""
    peer_depth: int = 4
    """Layers of the peer's model in whole trainings."""
    peer_batches: tuple[int, ...] = (4096, 8192, 16384)
    """Tokens a step to try for the peer at 10 minutes; the best one is used for all."""
    peer_dtypes: tuple[str, ...] = DTYPES
    """Its default on a CPU, float32, and bfloat16."""
    eval_tokens: int = 262144
    """Validation tokens."""
    data: Path | None = None
    """Folder of parquet shards (default: local/debian-english under NANOCHAT_HUB_DIR)."""
    peer: Path | None = None
    """Checkout of karpathy/nanochat."""
    json: Path | None = None
    """Write the results to this file."""


def step(depth: int, rows: int, steps: int, at_once: int = 0) -> dict[str, Any]:
    """Our training step, as nanochat.train takes it; at_once: sequences in a forward pass (0: as trainings do)."""
    import torch

    from benchmarks.tokenizer import peak_mb
    from nanochat import scale
    from nanochat.feed import MicroBatch, Step
    from nanochat.machine import peak_flops, release_memory, setup
    from nanochat.model import GPT, ModelConfig
    from nanochat.optim import Optimizer, Schedule
    from nanochat.train import LossScale, Stepper, choose_rows, fastest_sizes, make_loss, muon_dtype, usual_sizes

    machine = setup("cpu")
    config = ModelConfig.from_depth(depth, VOCAB, SEQ_LEN)
    batch = rows * SEQ_LEN
    model = GPT(config, machine.dtype).init_weights(0)
    n_tokens = scale.tokens(config.shape, 12.0)
    rates = scale.rates(config.shape, batch, n_tokens, 12.0)
    if scale.few_rows(batch):
        model.use_sparse_tables()
    optimizer = Optimizer(model, rates, muon_dtype(machine), True, scale.muon_every(batch))
    update = optimizer.step
    seconds, updates = [], []

    def timed(schedule: Schedule, step: int) -> None:
        began = time.perf_counter()
        update(schedule, step)
        updates.append(time.perf_counter() - began)

    # Time the real training step, and the update inside it.
    optimizer.step = timed  # type: ignore[method-assign, assignment]
    loss = make_loss(model, "auto", machine)
    size = choose_rows(rows, config.shape, at_once, machine)
    most = size if at_once else choose_rows(rows, config.shape, 2 * size, machine)
    sizes = fastest_sizes(model, loss, optimizer.clear, usual_sizes(model, size), most)
    stepper = Stepper(machine, model, optimizer, loss, LossScale())
    ids = torch.randint(0, VOCAB, (rows, SEQ_LEN + 1), generator=torch.Generator().manual_seed(0))
    x, y = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    micro = [MicroBatch(a, b) for a, b in zip(x.split(sizes.rows), y.split(sizes.rows), strict=True)]
    work = Step(micro, batch, {})
    for i in range(steps):
        began = time.perf_counter()
        stepper(work, batch, Schedule(steps), i)
        seconds.append(time.perf_counter() - began)
        if i < 2:
            release_memory()
    return {
        "seconds": seconds,
        "updates": updates,
        "flops_per_token": config.flops_per_token,
        "peak_mb": peak_mb(),
        "matmul_peak": peak_flops(machine),
        "dtype": str(machine.dtype).removeprefix("torch."),
    }


def run_ours(call: str, module: str = "benchmarks.train") -> dict[str, Any]:
    code = f"import json; from {module} import *; print(json.dumps({call}))"
    return _last_line([sys.executable, "-c", code], dict(os.environ))


def run_peer(peer: Path, dtype: str, what: str, *given: Any) -> dict[str, Any]:
    script = str(Path(__file__).with_name("upstream.py"))
    return _last_line([sys.executable, "-P", script, what, *(json.dumps(x) for x in given)], _peer_env(peer, dtype))


def _peer_env(peer: Path, dtype: str) -> dict[str, str]:
    given = {k: v for k, v in os.environ.items() if k != "GOMP_SPINCOUNT"}  # which our command line sets
    return {**given, "PYTHONPATH": str(peer.resolve()), "NANOCHAT_DTYPE": dtype, "WANDB_MODE": "disabled"}


def _last_line(command: list[str], env: dict[str, str]) -> dict[str, Any]:
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def summary(runs: list[dict[str, Any]], batch: int) -> dict[str, Any]:
    """Medians over runs of each run's median over pairs of steps, since matrices may be updated in turns."""

    def typical(what: str) -> float:
        found = [r[what][WARM:] for r in runs]
        return median([median([(a + b) / 2 for a, b in zip(x[::2], x[1::2], strict=False)]) for x in found])

    seconds = typical("seconds")
    row = {
        "tokens_per_s": batch / seconds,
        "gflops": batch / seconds * runs[0]["flops_per_token"] / 1e9,
        "optimizer_share": typical("updates") / seconds,
        "peak_mb": median([r["peak_mb"] for r in runs]),
        "first_step_s": median([r["seconds"][0] for r in runs]),
    }
    if "matmul_peak" in runs[0]:
        row["of_matmul_peak"] = row["gflops"] * 1e9 / median([r["matmul_peak"] for r in runs])
        row["dtype"] = runs[0]["dtype"]
    return row


def race_steps(config: Config) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Rows by depth: ours, and each peer's."""
    ours: dict[str, Any] = {}
    peers: dict[str, dict[str, Any]] = {f"upstream {d}": {} for d in config.peer_dtypes} if config.peer else {}
    batch = config.rows * SEQ_LEN
    for depth in config.depths:
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in ["ours", *peers]}
        for _ in range(config.repeats):
            runs["ours"].append(run_ours(f"step({depth}, {config.rows}, {config.steps})"))
            for dtype in config.peer_dtypes if config.peer else ():
                assert config.peer is not None
                found = run_peer(config.peer, dtype, "step", depth, VOCAB, SEQ_LEN, config.rows, config.steps)
                runs[f"upstream {dtype}"].append(found)
        # Our memory when a pass takes all rows, as the peer's does.
        at_once = run_ours(f"step({depth}, {config.rows}, 8, {config.rows})")["peak_mb"]
        # Our memory and speed with --device_batch_size=1.
        single = summary([run_ours(f"step({depth}, {config.rows}, {config.steps}, 1)")], batch)
        for name, measured in runs.items():
            row = summary(measured, batch)
            if name == "ours":
                row["peak_mb_at_once"] = at_once
                row["peak_mb_one_by_one"] = single["peak_mb"]
                row["tokens_per_s_one_by_one"] = single["tokens_per_s"]
            (ours if name == "ours" else peers[name])[f"d{depth}"] = row
            print(
                f"d{depth} {name:18} {row['tokens_per_s']:8,.0f} tok/s  {row['gflops']:6,.0f} GFLOP/s  "
                f"update {row['optimizer_share']:5.1%}  peak {row['peak_mb']:6,.0f} MB  "
                f"first step {row['first_step_s']:.0f} s"
                + (f"  {row['of_matmul_peak']:.0%} of the matmul peak" if "of_matmul_peak" in row else "")
                + (
                    f"  all rows in one pass: {at_once:,.0f} MB"
                    f"  one by one: {single['tokens_per_s']:,.0f} tok/s, {single['peak_mb']:,.0f} MB"
                    if name == "ours"
                    else ""
                ),
                flush=True,
            )
    return ours, peers


def peer_weights(weights: dict[str, Any]) -> dict[str, Any]:
    """Upstream's state dict under our names."""
    named = {}
    for name, tensor in weights.items():
        for theirs, mine in PEER_NAMES.items():
            name = name.replace(theirs, mine)
        named[name.removeprefix("_orig_mod.")] = tensor.float()
    return named


def same_logits(peer: Path) -> bool:
    """Whether our code gives upstream's logits for upstream's model."""
    import torch

    from nanochat.model import GPT, ModelConfig

    with tempfile.TemporaryDirectory() as folder:
        run_peer(peer, "float32", "logits", folder)
        saved = torch.load(Path(folder) / "logits.pt", weights_only=True)
    model = GPT(ModelConfig(3, 192, 3, 3, 256, 64, "modern", 100000.0))
    model.load_state_dict(peer_weights(saved["weights"]))
    with torch.no_grad():
        return bool((model(saved["ids"]) - saved["logits"]).abs().max() < 1e-4)


def train_ours(tag: str, minutes: float, script: Sequence[str], **env: str) -> None:
    """Train on the Arena's text for that time, in a fresh process."""
    subprocess.run(
        [sys.executable, *script, f"--dataset={NAME}", f"--model_tag={tag}", f"--time_budget={round(60 * minutes)}s",
         "--eval_every=-1", "--save_every=-1"],
        env={**os.environ, **env}, stdout=subprocess.DEVNULL, check=True,
    )  # fmt: skip


class Arena:
    """The base dir of whole trainings: the text, one tokenizer for both, and earlier results of peers."""

    def __init__(self, config: Config):
        from nanochat import corpus
        from nanochat.paths import base_dir, tokenizer_dir
        from nanochat.tokenizer import SPECIAL_TOKENS, Tokenizer, train_bpe

        self.config = config
        self.cache = base_dir() / "benchmarks"
        self.cache.mkdir(parents=True, exist_ok=True)
        self.folder = config.data or Path(os.environ.get("NANOCHAT_HUB_DIR", "")) / "local/debian-english"
        self.base = Path(tempfile.mkdtemp(prefix="nanochat-train-"))
        os.environ["NANOCHAT_BASE_DIR"] = str(self.base)
        corpus.prepare(str(self.folder), name=NAME)
        from nanochat.corpus import Shards

        Tokenizer(train_bpe(Shards.open(NAME, "train"), VOCAB - len(SPECIAL_TOKENS))).save(tokenizer_dir())

    def bpb(self, model: Any) -> float:
        from nanochat.corpus import Shards
        from nanochat.eval import text_bpb
        from nanochat.paths import tokenizer_dir
        from nanochat.tokenizer import Tokenizer

        tokenizer = Tokenizer.load(tokenizer_dir())
        return text_bpb(model, tokenizer, Shards.open(NAME, "val"), self.config.eval_tokens)[0]

    def ours(self, minutes: float) -> dict[str, Any]:
        """Depth and everything else as the dial says, from an empty compile cache."""
        import torch

        from nanochat.model import load
        from nanochat.paths import checkpoints_dir

        tag = f"ours-{minutes:g}"
        with tempfile.TemporaryDirectory() as cold:
            began = time.time()
            train_ours(tag, minutes, ["-m", "scripts.base_train", "--eval_tokens=4096"], TORCHINDUCTOR_CACHE_DIR=cold)
            seconds = time.time() - began
        folder = max((checkpoints_dir("base") / tag).glob("step_*"))
        state = json.loads((folder / "train_state.json").read_text())
        model = load(folder, "cpu", torch.float32)
        return {
            "bpb": self.bpb(model), "seconds": seconds, "steps": state["step"], "tokens": state["tokens"],
            "depth": model.config.depth, "batch_tokens": state["batch_tokens"],
        }  # fmt: skip

    def peer(self, minutes: float, dtype: str, batch: int) -> dict[str, Any]:
        """The peer's result, from the cache or trained now."""
        peer, depth = self.config.peer, self.config.peer_depth
        assert peer is not None
        commit = subprocess.run(
            ["git", "-C", str(peer), "rev-parse", "HEAD"], stdout=subprocess.PIPE, text=True, check=True
        ).stdout.strip()
        import torch

        from nanochat.machine import cpu_count, cpu_name
        from nanochat.paths import tokenizer_dir
        from nanochat.tokenizer import Tokenizer

        place = re.sub(r"\W+", "-", cpu_name())
        ids = Tokenizer.load(tokenizer_dir()).hash[:8]
        place += f"-{cpu_count()}-torch{torch.__version__}"
        run = f"{commit[:12]}-{place}-{ids}-d{depth}-{dtype}-{batch}-{minutes:g}m-{self.config.eval_tokens}"
        path = self.cache / f"upstream-{run}.json"
        if path.exists():
            known: dict[str, Any] = json.loads(path.read_text())
            return known
        result = self._train_peer(peer, minutes, dtype, batch)
        path.write_text(json.dumps(result))
        return result

    def _train_peer(self, peer: Path, minutes: float, dtype: str, batch: int) -> dict[str, Any]:
        import torch

        from nanochat.model import GPT, ModelConfig
        from nanochat.paths import tokenizer_dir
        from nanochat.tokenizer import SPECIAL_TOKENS, SPLIT_PATTERN

        depth = self.config.peer_depth
        with tempfile.TemporaryDirectory(prefix="nanochat-upstream-") as base:
            env = {**_peer_env(peer, dtype), "NANOCHAT_BASE_DIR": base, "TORCHINDUCTOR_CACHE_DIR": f"{base}/cold"}
            text = Path(base) / "base_data_climbmix"
            text.mkdir()
            for shard in sorted(self.folder.glob("*.parquet")):
                (text / shard.name).symlink_to(shard.resolve())
            script = str(Path(__file__).with_name("upstream.py"))
            ranks = str(tokenizer_dir() / "ranks.tiktoken")
            given = [json.dumps(x) for x in (ranks, SPLIT_PATTERN, list(SPECIAL_TOKENS))]
            subprocess.run(
                [sys.executable, "-P", script, "tokenizer", *given], env=env, stdout=subprocess.DEVNULL, check=True
            )
            rows = min(32, batch // SEQ_LEN)
            flags = [
                f"--depth={depth}", "--head-dim=64", "--window-pattern=L", f"--max-seq-len={SEQ_LEN}",
                f"--device-batch-size={rows}", f"--total-batch-size={batch}", "--eval-every=-1", "--eval-tokens=4096",
                "--core-metric-every=-1", "--sample-every=-1", "--model-tag=peer",
            ]  # fmt: skip

            def train(steps: int) -> tuple[float, str]:
                began = time.time()
                done = subprocess.run(
                    [sys.executable, "-P", script, "base_train", f"--num-iterations={steps}", *flags],
                    env=env, stdout=subprocess.PIPE, text=True, check=True,
                )  # fmt: skip
                return time.time() - began, done.stdout

            # A pilot of few steps tells how long a step and everything around the steps take.
            pilot = 20
            whole, log = train(pilot)
            each = median([float(ms) / 1000 for ms in re.findall(r"dt: ([\d.]+)ms", log)][WARM:])
            shutil.rmtree(f"{base}/cold", ignore_errors=True)
            steps = max(pilot, int((60 * minutes - (whole - pilot * each)) / each))
            seconds, log = train(steps)
            file = next((Path(base) / "base_checkpoints/peer").glob(f"model_{steps:06d}.pt"))
            weights = peer_weights(torch.load(file, weights_only=True, map_location="cpu"))
            model = GPT(ModelConfig(depth, 64 * depth, depth, depth, VOCAB, SEQ_LEN, "modern", 100000.0))
            model.load_state_dict(weights)
            return {"bpb": self.bpb(model.eval()), "seconds": seconds, "steps": steps, "tokens": steps * batch}

    def close(self) -> None:
        shutil.rmtree(self.base, ignore_errors=True)


def race_trainings(config: Config) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    arena = Arena(config)
    ours: dict[str, Any] = {}
    peers: dict[str, dict[str, Any]] = {f"upstream {d}": {} for d in config.peer_dtypes} if config.peer else {}

    def show(name: str, minutes: float, row: dict[str, Any]) -> None:
        print(
            f"{minutes:g} min {name:18} bpb {row['bpb']:.4f}  {row['tokens']:,} tokens in {row['steps']} steps, "
            f"{row['seconds']:.0f} s", flush=True,
        )  # fmt: skip

    try:
        for minutes in config.minutes:
            ours[f"{minutes:g}m"] = arena.ours(minutes)
            show("ours", minutes, ours[f"{minutes:g}m"])
        for dtype in config.peer_dtypes if config.peer else ():
            tried = {batch: arena.peer(10, dtype, batch)["bpb"] for batch in config.peer_batches}
            best = min(tried, key=lambda batch: tried[batch])
            print(f"upstream {dtype} at 10 min by batch: " + ", ".join(f"{b} {x:.4f}" for b, x in tried.items()))
            for minutes in config.minutes:
                row = {**arena.peer(minutes, dtype, best), "batch_tokens": best}
                peers[f"upstream {dtype}"][f"{minutes:g}m"] = row
                show(f"upstream {dtype}", minutes, row)
    finally:
        arena.close()
    return ours, peers


def main(config: Config) -> None:
    from nanochat.console import UserError

    if config.peer and not (config.peer / "nanochat/gpt.py").is_file():
        raise UserError(f"{config.peer} has no nanochat/gpt.py", "Give --peer a checkout of karpathy/nanochat")
    checks = {"equal logits": same_logits(config.peer)} if config.peer else {}
    ours, peers = race_steps(config) if config.depths else ({}, {})
    ratio: dict[str, dict[str, float]] = {}
    if config.minutes:
        mine, theirs = race_trainings(config)
        ours.update(mine)
        late = [m for m in config.minutes if mine[f"{m:g}m"]["seconds"] > 60 * m * 1.01]
        checks["ours within the time"] = not late
        for name, rows in theirs.items():
            peers.setdefault(name, {}).update(rows)
    for name, rows in peers.items():
        ratio[name] = {}
        for what, row in rows.items():
            if "bpb" in row:
                ratio[name][f"bpb {what}"] = row["bpb"] / ours[what]["bpb"]
                as_good = [m for m in config.minutes if ours[f"{m:g}m"]["bpb"] <= row["bpb"]]
                if as_good:
                    ratio[name][f"as good as its {what}"] = float(what.removesuffix("m")) / min(as_good)
            else:
                ratio[name][f"speed {what}"] = ours[what]["tokens_per_s"] / row["tokens_per_s"]
                ratio[name][f"memory {what}"] = row["peak_mb"] / ours[what]["peak_mb"]
                ratio[name][f"memory {what}, all rows in one pass"] = row["peak_mb"] / ours[what]["peak_mb_at_once"]
                ratio[name][f"speed {what}, one by one"] = ours[what]["tokens_per_s_one_by_one"] / row["tokens_per_s"]
                ratio[name][f"memory {what}, one by one"] = row["peak_mb"] / ours[what]["peak_mb_one_by_one"]
    for name, values in ratio.items():
        print(f"against {name}: " + ", ".join(f"{k} {v:.2f}x" for k, v in values.items()))
    for name, good in checks.items():
        print(f"{name}: {'yes' if good else 'NO'}")
    settings = {"vocab": VOCAB, "seq_len": SEQ_LEN, "rows": config.rows, "eval_tokens": config.eval_tokens}
    BenchmarkResult("train", ours, peers, ratio, checks, settings).write(config.json)


if __name__ == "__main__":
    from nanochat.console import run_command

    run_command(Config, main, description=__doc__, prog="python -m benchmarks.train")
