"""A model in an HTML file, run by Chromium, beside our engine in native code: the same prompts, the same int8 weights.

Both answer greedily; nothing ends an answer of the random model before its last token. With --stage, a trained
checkpoint of the tiny world answers that world's questions instead, and the checks say whether all answers are equal.
Needs Chromium and playwright, and reads the file from the disk, as whoever opens it does.

    python -m benchmarks.html --json result.json
    python -m benchmarks.html --stage sft --questions 100
"""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from nanochat.inference import Engine

NEAR = 0.02  # logits by which the twelve bits of token tables may move a random model's answer
# The page keeps its worker to itself: this remembers it before the page's script runs.
WATCH = """
const Own = Worker;
globalThis.Worker = class extends Own {
  constructor(address) {
    super(address);
    globalThis.said = [];
    globalThis.asked = (ask) => new Promise((resolve) => {
      said.length = 0;
      this.addEventListener("message", ({ data }) => data.type === "end" && resolve([...said]), { once: false });
      this.postMessage({ type: "ask", ask });
    });
    this.addEventListener("message", ({ data }) => said.push(data));
  }
};
"""


@dataclass
class Config:
    depth: int = 4
    """Layers of the random model."""
    vocab: int = 2048
    """Its tokens, from 266 to 65,801."""
    new: int = 128
    """Tokens of an answer."""
    questions: int = 5
    """Prompts."""
    stage: Literal["", "sft", "rl"] = ""
    """Of a checkpoint to take instead of the random model."""
    model_tag: str | None = None
    """Its tag; default: the one written last."""
    json: Path | None = None
    """Write the results to this file."""


def write(config: Config) -> None:
    """A checkpoint with random weights, and logits of 0 for special tokens."""
    import torch

    from nanochat import checkpoint
    from nanochat.model import GPT, ModelConfig, save_weights
    from nanochat.tokenizer import SPECIAL_TOKENS, Tokenizer

    pairs = [bytes((a, b)) for a in range(256) for b in range(256)][: config.vocab - 256 - len(SPECIAL_TOKENS)]
    tokenizer = Tokenizer({token: rank for rank, token in enumerate([*(bytes((a,)) for a in range(256)), *pairs])})
    model = GPT(ModelConfig.from_depth(config.depth, config.vocab, 512)).init_weights(0)
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=g) * 0.02)
        model.head.weight[-len(SPECIAL_TOKENS) :] = 0
    with checkpoint.create("sft", f"d{config.depth}", 1) as folder:
        save_weights(model.config, model.state_dict(), folder)
        tokenizer.save(folder / "tokenizer")


def prompts(config: Config, engine: Engine) -> list[list[int]]:
    from nanochat.conversation import Conversation
    from nanochat.inference import fit_conversation

    if config.stage:
        from nanochat.tasks import TinyWorld

        task = TinyWorld("test")
        step = max(1, len(task) // config.questions)
        asked = [task[i].without_last() for i in range(0, len(task), step)][: config.questions]
    else:
        texts = [f"Question {n}: " + "abc " * 10 for n in range(config.questions)]
        asked = [Conversation.from_dict({"messages": [{"role": "user", "content": text}]}) for text in texts]
    return [fit_conversation(engine.tokenizer, one, engine.window, config.new) for one in asked]


def in_browser(path: Path, asked: list[list[int]], new: int) -> tuple[float, list[Any]]:
    """Seconds from opening the file until the model is ready, and what its worker said to each prompt."""
    from playwright.sync_api import sync_playwright

    from benchmarks.browser import chromium
    from nanochat.console import Progress

    program = chromium()
    with sync_playwright() as playwright, Progress(len(asked), "in Chromium", "answers") as bar:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page()
        page.add_init_script(WATCH)
        began = time.perf_counter()
        page.goto(path.as_uri(), timeout=600_000)
        page.locator("#banner:empty").wait_for(state="attached", timeout=600_000)
        loaded = time.perf_counter() - began
        found = []
        settings = {"max_tokens": new, "temperature": 0}
        for number, ids in enumerate(asked):
            ask = {"id": f"b{number}", "mode": "chat", "ids": ids, "settings": settings}
            found.append(page.evaluate("(ask) => asked(ask)", ask))
            bar.advance(1)
        browser.close()
    return loaded, found


def margins(engine: Engine, prompt: list[int], ids: list[int]) -> list[float]:
    """By how much each greedy token was ahead of the next one, in logits, for weights in eight bits."""
    import torch

    from nanochat.inference import rounded

    with torch.no_grad():
        logits = rounded(engine.model)(torch.tensor([[*prompt, *ids]]))[0, len(prompt) - 1 : -1]
    top = logits.topk(2).values
    return (top[:, 0] - top[:, 1]).tolist()


def run(config: Config) -> None:
    from benchmarks.result import BenchmarkResult
    from nanochat.console import say
    from nanochat.hub import export_html
    from nanochat.inference import Request, load_engine

    with tempfile.TemporaryDirectory() as folder:
        if not config.stage:
            os.environ["NANOCHAT_BASE_DIR"] = folder
            write(config)
        stage, path = config.stage or "sft", Path(folder) / "model.html"
        export_html(stage, path, config.model_tag)
        engine, _ = load_engine(stage, config.model_tag, device="cpu", dtype="float32", quantize="int8")
        asked = prompts(config, engine)
        loaded, told = in_browser(path, asked, config.new)
        size = path.stat().st_size

    def native(ids: list[int], new: int) -> tuple[float, list[int]]:
        began = time.perf_counter()
        done = engine.generate([Request(ids, new, 0.0)])[0]
        return time.perf_counter() - began, done.ids

    ours = {"tokens": 0, "seconds": 0.0, "first": 0.0}
    theirs = dict(ours)
    equal, explained, apart = 0, True, []
    native(asked[0], 2)
    for ids, said in zip(asked, told, strict=True):
        end, page_ids = said[-1]["end"], [token[0] for one in said for token in one.get("tokens", [])]
        first, (seconds, expected) = native(ids, 1)[0], native(ids, config.new)
        equal += page_ids == expected
        ahead = margins(engine, ids, expected)
        apart += ahead
        if page_ids != expected:
            same = next((n for n, (a, b) in enumerate(zip(page_ids, expected, strict=False)) if a != b), 0)
            say(f"an answer differs at token {same}, which was ahead by {ahead[same]:.4f} logits")
            explained &= ahead[same] < NEAR
        for counts, taken, began in ((ours, end["seconds"], end["first"] or 0.0), (theirs, seconds, first)):
            counts["tokens"] += len(expected)
            counts["seconds"] += taken
            counts["first"] += began
    figures = [
        {
            "tokens_per_s": (c["tokens"] - len(asked)) / (c["seconds"] - c["first"]),
            "first_token_s": c["first"] / len(asked),
        }
        for c in (ours, theirs)
    ]
    figures[0] |= {"file_MB": size / 1e6, "load_s": loaded, "equal_answers": equal, "smallest_margin": min(apart)}
    say(
        f"Chromium {figures[0]['tokens_per_s']:.0f} tokens/s, first token after {figures[0]['first_token_s']:.2f} s; "
        f"engine {figures[1]['tokens_per_s']:.0f} tokens/s, {figures[1]['first_token_s']:.2f} s"
    )
    say(f"{size / 1e6:.1f} MB, ready after {loaded:.2f} s; {equal} of {len(asked)} answers equal")
    say(f"greedy tokens were ahead by {min(apart):.4f} logits at least")
    ratio = {"speed": figures[0]["tokens_per_s"] / figures[1]["tokens_per_s"]}
    settings = {name: value for name, value in vars(config).items() if name != "json"}
    checks = {"equal answers, but where tokens are as good as equal": explained}
    result = BenchmarkResult("html", figures[0], {"native": figures[1]}, {"native": ratio}, checks, settings)
    result.conclude(config.json)


if __name__ == "__main__":
    from nanochat.console import run_command

    run_command(Config, run, description=__doc__, prog="python -m benchmarks.html")
