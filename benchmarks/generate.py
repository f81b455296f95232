"""Writing answers on a CPU: our engine beside upstream's and transformers', and what it saves a conversation.

Models of upstream's architecture and sizes with random weights (vocabulary 32,768) continue a prompt of 128 tokens,
alone and as 16 streams, drawing from the 50 likeliest tokens at temperature 1 in both programs; no answer ends early.
Each measurement is a fresh process, ours and the peers' in turns. `speed` is that of the whole answer, `decode` that of
all tokens but the first, `first token` the time until it. upstream: the better of float32 and bfloat16; ours: what the
machine multiplies best, as by default.

    python -m benchmarks.generate --peer ../nanochat --json result.json
    python -m benchmarks.generate --only d12 int8 --repeats 1 --peer ../nanochat
    python -m benchmarks.generate --only chat_eval --before ../older-checkout --base-dir ~/.cache/nanochat
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from benchmarks.result import BenchmarkResult, median
from benchmarks.train import DTYPES, peer_weights, run_ours, run_peer

if TYPE_CHECKING:
    from nanochat.inference import Engine
    from nanochat.inference.quantize import Quantize
    from nanochat.model import GPT, ModelConfig

VOCAB, SEQ_LEN, PROMPT, STREAMS = 32768, 1024, 128, 16
NEAR = 1e-2
TURN = (448, 64, 32)  # tokens of a first prompt, its answer, and what is said then
TASKS = "TinyWorld,SpellingBee"
Part = Literal["d4", "d12", "int8", "transformers", "turn", "chat_eval"]
PARTS: tuple[Part, ...] = ("d4", "d12", "int8", "transformers", "turn", "chat_eval")


@dataclass
class Config:
    only: tuple[Part, ...] = ()
    """What to measure; default: all that the other flags allow."""
    tokens: int = 256
    """Tokens of an answer."""
    repeats: int = 3
    """Measurements of each, in turns."""
    peer: Path | None = None
    """Checkout of karpathy/nanochat."""
    before: Path | None = None
    """Checkout of an older nanochat of ours, whose chat_eval is timed as well."""
    base_dir: Path | None = None
    """Base folder with the chat model of the built-in world to grade (default: NANOCHAT_BASE_DIR)."""
    source: Literal["mid", "sft", "rl"] = "sft"
    """Stage of that model."""
    json: Path | None = None
    """Write the results to this file."""


def sizes(depth: int) -> ModelConfig:
    """Those of upstream's model with the settings of its runs/runcpu.sh."""
    from nanochat.model import ModelConfig

    return ModelConfig(depth, 64 * depth, depth, depth, VOCAB, SEQ_LEN, "modern", rope_base=100000.0)


def random_model(depth: int, dtype: Any = None) -> GPT:
    """Weights that no layer leaves as they came, and logits of 0 for special tokens, which are never drawn then."""
    import torch

    from nanochat.model import GPT
    from nanochat.tokenizer import SPECIAL_TOKENS

    model = GPT(sizes(depth), dtype or torch.float32).init_weights(0)
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=g) * 0.02)
        model.head.weight[-len(SPECIAL_TOKENS) :] = 0
    return model.eval()


def prompt_ids(seed: int = 0, length: int = PROMPT) -> list[int]:
    import torch

    return torch.randint(0, VOCAB - 9, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def timing(stamps: list[float], rows: int) -> dict[str, Any]:
    """stamps: seconds to each token of all rows."""
    return {
        "tokens": len(stamps), "seconds": stamps[-1], "first_s": stamps[rows - 1],
        "decode_s": (stamps[-1] - stamps[rows - 1]) * rows / (len(stamps) - rows),
    }  # fmt: skip


def answer(depth: int, rows: int, tokens: int, quantize: Quantize = "") -> dict[str, Any]:
    """Our engine's times, and the bytes that a step reads."""
    from nanochat.inference import Engine, Request
    from nanochat.inference.measuring import bytes_read, clock, made_up_tokenizer, read_bandwidth
    from nanochat.machine import setup

    machine = setup("cpu")
    model = random_model(depth, machine.dtype)
    engine = Engine(model if quantize else model.to(machine.dtype), made_up_tokenizer(VOCAB), rows, quantize)
    clock(engine, [Request(prompt_ids(1), 16, n=rows)])
    stamps = clock(engine, [Request(prompt_ids(), tokens, 1.0, 50, n=rows)])
    return {
        **timing(stamps, rows), "dtype": str(machine.dtype).removeprefix("torch."),
        "step_bytes": bytes_read(model, rows, PROMPT + tokens / 2, quantize), "bandwidth": read_bandwidth(machine),
    }  # fmt: skip


def beside_plain(depth: int, quantize: Quantize = "", tokens: int = 64) -> dict[str, float]:
    """Our engine's greedy answer beside the plain model of the same rounded weights in float32. off: the largest
    difference of logits; gap: by how much the plain model's best logit exceeds that of the token taken, at most."""
    import torch

    from nanochat.inference import Engine, Request, rounded
    from nanochat.inference.measuring import made_up_tokenizer
    from nanochat.inference.quantize import matrices
    from nanochat.inference.runner import Chunk
    from nanochat.machine import setup

    machine = setup("cpu")
    model = random_model(depth, machine.dtype)
    engine = Engine(model if quantize else model.to(machine.dtype), made_up_tokenizer(VOCAB), 1, quantize)
    [done] = engine.generate([Request(prompt_ids(), tokens, 0.0)])
    ids = prompt_ids() + done.ids
    chunks = [Chunk(0, 0, ids[:PROMPT], -1)]
    chunks += [Chunk(0, at, [ids[at]], ids[at - 1]) for at in range(PROMPT, len(ids) - 1)]
    logits = torch.cat([engine.runner.step([chunk]).clone() for chunk in chunks])  # nobody uses the engine any more
    plain = rounded(model) if quantize else model
    eight = {name for name, _ in matrices(model)} if quantize else set()
    plain.dtype = torch.float32
    with torch.no_grad():
        for name, p in plain.named_parameters():  # what is not in eight bits is in the machine's dtype
            p.data = (p if name in eight else p.to(machine.dtype)).float()
        exact = plain(torch.tensor([ids[:-1]]))[0, PROMPT - 1 :]
    chosen = exact.gather(1, torch.tensor(done.ids)[:, None])[:, 0]
    return {
        "tokens": len(done.ids), "off": float((logits - exact).abs().max()), "largest": float(exact.abs().max()),
        "gap": float((exact.amax(1) - chosen).max()),
    }  # fmt: skip


def same_answers(peer: Path) -> bool:
    """Whether our engine continues a small model of upstream's, in float32, as upstream's engine does."""
    import torch

    from nanochat.inference import Engine, Request
    from nanochat.inference.measuring import made_up_tokenizer
    from nanochat.model import GPT, ModelConfig

    with tempfile.TemporaryDirectory() as folder:
        tokenizer = made_up_tokenizer(320)
        run_peer(peer, "float32", "answer", folder, *made(folder, 320))
        saved = torch.load(Path(folder) / "answer.pt", weights_only=True)
    model = GPT(ModelConfig(3, 192, 3, 3, 320, 128, "modern", rope_base=100000.0)).eval()
    model.load_state_dict(peer_weights(saved["weights"]))
    [done] = Engine(model, tokenizer).generate([Request(saved["prompt"], len(saved["ids"]), 0.0)])
    same: bool = done.ids == saved["ids"]
    return same


def made(folder: str, vocab: int) -> tuple[str, str, list[str]]:
    """What upstream's tokenizer of such a size is made of."""
    from nanochat.inference.measuring import made_up_tokenizer
    from nanochat.tokenizer import SPECIAL_TOKENS, SPLIT_PATTERN

    made_up_tokenizer(vocab).save(Path(folder) / "tokenizer")
    return str(Path(folder) / "tokenizer/ranks.tiktoken"), SPLIT_PATTERN, list(SPECIAL_TOKENS)


def rates(runs: list[dict[str, Any]], rows: int) -> dict[str, Any]:
    """Medians of some runs."""
    row = {
        "tokens_per_s": median([run["tokens"] / run["seconds"] for run in runs]),
        "decode_tokens_per_s": median([rows / run["decode_s"] for run in runs]),
        "first_token_s": median([run["first_s"] for run in runs]),
        "tokens": runs[0]["tokens"],
        "dtype": runs[0].get("dtype", ""),
    }
    if "step_bytes" in runs[0]:
        row["of_bandwidth"] = median([run["step_bytes"] / run["decode_s"] / run["bandwidth"] for run in runs])
        row["read_gb_per_s"] = median([run["bandwidth"] / 1e9 for run in runs])
    return row


class Findings:
    """What is measured, filled part by part."""

    def __init__(self, config: Config):
        self.config = config
        self.ours: dict[str, Any] = {}
        self.peers: dict[str, dict[str, Any]] = {}
        self.ratio: dict[str, dict[str, float]] = {}
        self.checks: dict[str, bool] = {}

    def compare(self, what: str, mine: dict[str, Any], peer: str, theirs: dict[str, Any]) -> None:
        ratio = self.ratio.setdefault(peer, {})
        ratio[f"speed {what}"] = mine["tokens_per_s"] / theirs["tokens_per_s"]
        ratio[f"decode {what}"] = mine["decode_tokens_per_s"] / theirs["decode_tokens_per_s"]
        ratio[f"first token {what}"] = theirs["first_token_s"] / mine["first_token_s"]
        self.checks[f"{what}: as many tokens as {peer}"] = mine["tokens"] == theirs["tokens"]

    def show(self, what: str, name: str, row: dict[str, Any]) -> None:
        share = f"  {row['of_bandwidth']:.0%} of {row['read_gb_per_s']:.1f} GB/s" if "of_bandwidth" in row else ""
        print(
            f"{what:16} {name:18} {row['tokens_per_s']:8,.1f} tok/s  decode {row['decode_tokens_per_s']:8,.1f}  "
            f"first token {row['first_token_s'] * 1e3:7,.0f} ms  {row['dtype']}{share}", flush=True,
        )  # fmt: skip

    def race(self, depth: int, rows: int, quantize: str = "") -> None:
        """Ours and upstream's in turns; upstream's figures without eight bits are taken where they are known."""
        what = f"d{depth} {quantize + ' ' * bool(quantize)}{'alone' if rows == 1 else rows}"
        plain = what.replace("int8 ", "")
        dtypes = DTYPES if self.config.peer and not (quantize and plain in self.peers.get("upstream", {})) else ()
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in ("ours", *dtypes)}
        with tempfile.TemporaryDirectory() as folder:
            tokenizer = made(folder, VOCAB)
            for _ in range(self.config.repeats):
                call = f"answer({depth}, {rows}, {self.config.tokens}, {quantize!r})"
                runs["ours"].append(run_ours(call, "benchmarks.generate"))
                for dtype in dtypes:
                    assert self.config.peer
                    given = (depth, VOCAB, SEQ_LEN, rows, prompt_ids(), self.config.tokens, *tokenizer)
                    runs[dtype].append(run_peer(self.config.peer, dtype, "generate", *given))
        mine = self.ours[what] = rates(runs["ours"], rows)
        self.show(what, "ours", mine)
        for dtype in dtypes:
            theirs = {**rates(runs[dtype], rows), "dtype": dtype}
            self.show(what, f"upstream {dtype}", theirs)
            self.peers.setdefault(f"upstream {dtype}", {})[plain] = theirs
            best = self.peers.setdefault("upstream", {}).get(plain)
            if best is None or theirs["tokens_per_s"] > best["tokens_per_s"]:
                self.peers["upstream"][plain] = theirs
        if self.config.peer:
            self.compare(what, mine, "upstream", self.peers["upstream"][plain])

    def near_plain(self, depth: int, quantize: str = "") -> None:
        found = run_ours(f"beside_plain({depth}, {quantize!r})", "benchmarks.generate")
        what = f"d{depth}{' int8' * bool(quantize)}"
        self.ours[f"{what} beside the plain model"] = found
        self.checks[f"{what}: logits are the plain model's, to {NEAR}"] = found["off"] <= NEAR
        self.checks[f"{what}: greedy answers are the plain model's, to {NEAR} in its logits"] = found["gap"] <= 2 * NEAR

    def race_transformers(self) -> None:
        """An exported model in both programs, from files."""
        from benchmarks import hf_generate

        what = "d12 alone"
        runs: dict[str, list[dict[str, Any]]] = {"ours": [], "transformers": []}
        with tempfile.TemporaryDirectory() as base:
            hf_generate.write(base, random_model(12))
            for _ in range(self.config.repeats):
                for name, kept in runs.items():
                    call = f"{name}({base!r}, {self.config.tokens})"
                    kept.append(run_ours(call, "benchmarks.hf_generate"))
        mine, theirs = (rates(kept, 1) for kept in runs.values())
        self.ours["d12 alone, exported"] = mine
        self.peers["transformers"] = {what: theirs}
        self.show(what, "ours, from files", mine)
        self.show(what, "transformers", theirs)
        self.compare(what, mine, "transformers", theirs)

    def second_turn(self) -> None:
        found = run_ours(f"turns({self.config.repeats})", "benchmarks.generate")
        reused, anew = (median(found[name]) for name in ("reused", "anew"))
        what = "first token of a second turn"
        self.ours[what] = {"seconds": reused, "history": TURN[0] + TURN[1], "new": TURN[2]}
        self.peers["no reuse"] = {what: {"seconds": anew}}
        self.ratio["no reuse"] = {what: anew / reused}
        self.checks["a second turn is the same with reuse and without"] = found["same"]
        print(f"{what}: {reused * 1e3:,.0f} ms; without reuse {anew * 1e3:,.0f} ms", flush=True)

    def grade(self) -> None:
        """chat_eval of both codes on the same model, in turns."""
        base = self.config.base_dir or Path(os.environ.get("NANOCHAT_BASE_DIR", "~/.cache/nanochat")).expanduser()
        codes = {"ours": None, **({"before": self.config.before} if self.config.before else {})}
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in codes}
        for _ in range(self.config.repeats):
            for name, checkout in codes.items():
                runs[name].append(chat_eval(base, self.config.source, checkout))
        rows = {name: {**kept[0], "seconds": median([run["seconds"] for run in kept])} for name, kept in runs.items()}
        for name, row in rows.items():
            accuracy = ", ".join(f"{task} {share:.4f}" for task, share in row["accuracy"].items())
            print(f"chat_eval {name:8} {row['seconds']:6.1f} s  {accuracy}", flush=True)
        mine = self.ours["chat_eval"] = rows["ours"]
        if theirs := rows.get("before"):
            self.peers["before"] = {"chat_eval": theirs}
            self.ratio["before"] = {"chat_eval": theirs["seconds"] / mine["seconds"]}
            pairs = [
                (a, b)
                for task in mine["right"]
                for a, b in zip(mine["right"][task], theirs["right"][task], strict=True)
            ]
            self.ours["chat_eval"]["graded alike"] = sum(a == b for a, b in pairs) / len(pairs)
            self.checks["chat_eval: the same accuracy as before"] = mine["accuracy"] == theirs["accuracy"]
            self.checks["chat_eval: every answer is graded as before"] = all(a == b for a, b in pairs)


def turns(repeats: int) -> dict[str, Any]:
    """Seconds to the first token of a second turn, by an engine that has written the first one, and by a new one."""
    import torch

    from nanochat.inference import Engine, Request
    from nanochat.inference.measuring import made_up_tokenizer
    from nanochat.machine import setup

    machine = setup("cpu")
    torch.set_grad_enabled(False)
    model = random_model(12, machine.dtype).to(machine.dtype)
    tokenizer = made_up_tokenizer(VOCAB)
    history, answer, said = TURN
    talking = Engine(model, tokenizer)
    found: dict[str, Any] = {"reused": [], "anew": [], "same": True}
    for number in range(repeats + 1):
        prompt = prompt_ids(number, history)
        [first] = talking.generate([Request(prompt, answer, 0.0)])
        second = Request(prompt + first.ids + prompt_ids(100 + number, said), 8, 0.0)
        fresh = Engine(model, tokenizer)
        fresh.generate([Request([tokenizer.bos], 2)])  # so that it is ready
        (reused, a), (anew, b) = first_token(talking, second), first_token(fresh, second)
        if number:
            found["reused"].append(reused)
            found["anew"].append(anew)
        found["same"] &= a == b
    return found


def first_token(engine: Engine, request: Any) -> tuple[float, int]:
    began = time.perf_counter()
    stream = engine.stream(request)
    token = next(stream)
    seconds = time.perf_counter() - began
    list(stream)
    return seconds, token.id


OLDER = """
import importlib.machinery, importlib.util, sys
checkout, native = sys.argv[1:3]
# Otherwise an editable installation of ours would be found before the path is searched.
sys.meta_path[:] = [f for f in sys.meta_path if str(getattr(f, "__module__", "")).startswith("_frozen_importlib")]
sys.path.insert(0, checkout)
if native:
    loader = importlib.machinery.ExtensionFileLoader("nanochat.tokenizer._bpe", native)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    sys.modules[loader.name] = module
sys.argv = ["chat_eval", *sys.argv[3:]]
from nanochat.commands.chat_eval import main
main()
"""


def chat_eval(base: Path, source: str, checkout: Path | None) -> dict[str, Any]:
    """Grade the model in `base`, with the code of a checkout (None: this one); nothing is written there."""
    from nanochat.tokenizer.native import bpe

    with tempfile.TemporaryDirectory() as folder:
        for checkpoints in base.resolve().glob("*_checkpoints"):
            (Path(folder) / checkpoints.name).symlink_to(checkpoints)
        result = Path(folder) / "result.json"
        flags = ["-i", source, "-a", TASKS, "--device=cpu", f"--json={result}"]
        native = str(getattr(bpe, "__file__", "") or "")
        older = ["-c", OLDER, str(checkout and checkout.resolve()), native]
        started = ["-m", "nanochat.commands.chat_eval"] if checkout is None else older
        env = {**os.environ, "NANOCHAT_BASE_DIR": folder}
        subprocess.run([sys.executable, *started, *flags], env=env, stdout=subprocess.DEVNULL, check=True)
        found = json.loads(result.read_text())
    return {
        "seconds": found["seconds"],
        "accuracy": {name: task["accuracy"] for name, task in found["tasks"].items()},
        "right": {name: task["right"] for name, task in found["tasks"].items()},
    }


def main(config: Config) -> None:
    from nanochat.console import UserError

    if config.peer and not (config.peer / "nanochat/gpt.py").is_file():
        raise UserError(f"{config.peer} has no nanochat/gpt.py", "Give --peer a checkout of karpathy/nanochat")
    if config.before and not (config.before / "nanochat/commands/chat_eval.py").is_file():
        raise UserError(f"{config.before} has no nanochat/commands/chat_eval.py", "Give --before a checkout of ours")
    if config.repeats < 1 or not 2 <= config.tokens <= SEQ_LEN - PROMPT:
        raise UserError(
            f"--repeats is {config.repeats}, --tokens {config.tokens}",
            f"Give --repeats=1 or more, and --tokens from 2 to {SEQ_LEN - PROMPT}",
        )
    # Without these flags there is no model to grade, unless it is asked for by name.
    graded = config.before or config.base_dir
    parts = config.only or tuple(part for part in PARTS if part != "chat_eval" or graded)
    found = Findings(config)
    if config.peer:
        found.checks["greedy answers are upstream's"] = same_answers(config.peer)
    for depth in (4, 12):
        if f"d{depth}" in parts:
            found.race(depth, 1)
            found.race(depth, STREAMS)
            found.near_plain(depth)
    if "int8" in parts:
        found.race(12, 1, "int8")
        found.near_plain(12, "int8")
    if "transformers" in parts:
        found.race_transformers()
    if "turn" in parts:
        found.second_turn()
    if "chat_eval" in parts:
        found.grade()
    for name, values in found.ratio.items():
        print(f"beside {name}: " + ", ".join(f"{metric} {value:.2f}" for metric, value in values.items()))
    settings = {"vocab": VOCAB, "prompt": PROMPT, "tokens": config.tokens, "temperature": 1.0, "top_k": 50}
    settings |= {"repeats": config.repeats}
    BenchmarkResult("generate", found.ours, found.peers, found.ratio, found.checks, settings).conclude(config.json)


if __name__ == "__main__":
    from nanochat.console import run_command

    run_command(Config, main, description=__doc__, prog="python -m benchmarks.generate")
