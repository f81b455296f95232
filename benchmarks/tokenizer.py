"""Race the tokenizer: training against rustbpe and tokenizers, encoding against tiktoken and tokenizers.

Every training runs in a fresh process that first reads the text into memory and then, timed, imports its package and
trains; the peak of its memory includes the text, which is the same for all. The merges must agree. Encoding is timed
after one call that warms up, on documents that the vocabulary was not trained on.

    python -m benchmarks.tokenizer --mb 60 --vocab 32768 --json result.json
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CORPUS_MB = 110  # the training shards of debian-english
TRAINERS = ("ours", "rustbpe", "tokenizers")


@dataclass
class Config:
    mb: float = 60
    """Text to train on. More than the corpus holds: the corpus again, with every 17th word changed."""
    vocab: int = 32768
    """Tokens to learn, the 256 bytes included."""
    runs: int = 5
    """Fresh processes of each trainer; medians count."""
    encode_mb: float = 16
    """Text to encode."""
    data: Path | None = None
    """Folder of parquet, jsonl or txt (default: local/debian-english under NANOCHAT_HUB_DIR)."""
    json: Path | None = None
    """Write the results to this file."""


# What a fresh process runs. Nothing of nanochat is imported before the clock starts.
def train_once(trainer: str, text_file: str, vocab: int) -> None:
    texts = [document.decode() for document in Path(text_file).read_bytes().split(b"\0")]
    forget_peak()
    began = time.perf_counter()
    ranks = _train(trainer, texts, vocab)
    seconds = time.perf_counter() - began
    peak = peak_mb()
    tokens = [token.hex() for token in sorted(ranks, key=ranks.__getitem__)]
    print(json.dumps({"seconds": seconds, "peak_mb": peak, "tokens": tokens}))


def _train(trainer: str, texts: list[str], vocab: int) -> dict[bytes, int]:
    if trainer == "ours":
        from nanochat.tokenizer import train_bpe

        return train_bpe(texts, vocab)
    pattern = _pattern()
    if trainer == "rustbpe":
        import rustbpe

        tokenizer = rustbpe.Tokenizer()
        tokenizer.train_from_iterator(iter(texts), vocab, pattern=pattern)
        return {bytes(token): rank for token, rank in tokenizer.get_mergeable_ranks()}
    from nanochat.tokenizer.train import _learn_with_tokenizers

    learnt = _learn_with_tokenizers(iter([texts]), vocab, pattern)
    return {token: rank for rank, token in enumerate([bytes([value]) for value in range(256)] + learnt)}


def _pattern() -> str:
    from nanochat.tokenizer.pattern import SPLIT_PATTERN

    return SPLIT_PATTERN


def forget_peak() -> None:
    """Reading the text took more memory than holding it; let the peak start from here, where Linux can."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_mb() -> float:
    """Most memory this process has held, in MB."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024
    except (OSError, IndexError):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def load_texts(data: Path | None, split: str) -> Iterator[str]:
    from nanochat.console import UserError
    from nanochat.dataset.shards import Shards

    folder = data or Path(os.environ.get("NANOCHAT_HUB_DIR", "")) / "local/debian-english"
    files = sorted(folder.glob("*.parquet"))
    if len(files) < 2:
        raise UserError(f"{folder} holds no shards", "Set NANOCHAT_HUB_DIR or give --data FOLDER with parquet shards")
    yield from Shards(files[:-1] if split == "train" else files[-1:])


def take(texts: Callable[[], Iterator[str]], mb: float) -> list[str]:
    """Documents of `mb` MB in all; from the second reading on, every 17th word is another one each time."""
    found: list[str] = []
    missing = round(mb * 1e6)
    reading = 0
    while missing > 0:
        for text in texts():
            if reading:
                words = text.split(" ")
                words[reading % 17 :: 17] = [f"{word}{chr(96 + reading)}" for word in words[reading % 17 :: 17]]
                text = " ".join(words)
            text = text.replace("\0", " ")
            found.append(text)
            missing -= len(text.encode())
            if missing <= 0:
                break
        reading += 1
    return found


def race_training(texts: list[str], vocab: int, runs: int, trainers: tuple[str, ...] = TRAINERS) -> dict[str, Any]:
    """Per trainer: all runs, and the medians of seconds and peak memory. They take turns, so that noise is shared."""
    from benchmarks.result import median

    found: dict[str, list[dict[str, Any]]] = {trainer: [] for trainer in trainers}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "texts"
        file.write_bytes("\0".join(texts).encode())
        for _ in range(runs):
            for trainer in trainers:
                code = f"from benchmarks.tokenizer import train_once; train_once({trainer!r}, {str(file)!r}, {vocab})"
                done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
                found[trainer].append(json.loads(done.stdout.splitlines()[-1]))
    size = sum(len(text.encode()) for text in texts) / 1e6
    return {
        trainer: {
            "seconds": median([run["seconds"] for run in all_runs]),
            "mb_per_s": size / median([run["seconds"] for run in all_runs]),
            "peak_mb": median([run["peak_mb"] for run in all_runs]),
            "tokens": all_runs[0]["tokens"],
            "runs": [round(run["seconds"], 4) for run in all_runs],
        }
        for trainer, all_runs in found.items()
    }


def race_encoding(ranks: dict[bytes, int], texts: list[str], runs: int) -> tuple[dict[str, float], bool]:
    """Median seconds of each encoder on all texts, with one thread and with all; and whether all ids agree."""
    import tiktoken
    import tokenizers

    from benchmarks.result import median
    from nanochat.machine import cpu_count
    from nanochat.tokenizer import SPLIT_PATTERN, Tokenizer

    tokenizer = Tokenizer(ranks)
    peer = tiktoken.Encoding("peer", pat_str=SPLIT_PATTERN, mergeable_ranks=ranks, special_tokens={})
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(Path(folder) / "tokenizer")
        twin = tokenizers.Tokenizer.from_file(str(Path(folder) / "tokenizer/tokenizer.json"))
    encoders: dict[str, Callable[[], Any]] = {
        "ours, arrays": lambda: tokenizer.encode_arrays(texts),
        "ours, arrays, 1 thread": lambda: tokenizer.encode_arrays(texts, threads=1),
        "ours, lists": lambda: tokenizer.encode_batch(texts),
        "tiktoken, lists": lambda: peer.encode_ordinary_batch(texts, num_threads=cpu_count()),
        "tiktoken, 1 thread": lambda: [peer.encode_ordinary(text) for text in texts],
        "tokenizers": lambda: twin.encode_batch_fast(texts, add_special_tokens=False),
    }
    seconds: dict[str, list[float]] = {name: [] for name in encoders}
    agree = (
        tokenizer.encode_batch(texts) == peer.encode_ordinary_batch(texts) == [x.ids for x in encoders["tokenizers"]()]
    )
    for _ in range(runs):
        for name, encode in encoders.items():
            began = time.perf_counter()
            encode()
            seconds[name].append(time.perf_counter() - began)
    return {name: median(all_runs) for name, all_runs in seconds.items()}, agree


def run(config: Config) -> None:
    from benchmarks.result import BenchmarkResult
    from nanochat.console import say
    from nanochat.tokenizer import train_bpe

    texts = take(lambda: load_texts(config.data, "train"), config.mb)
    trained = race_training(texts, config.vocab, config.runs)
    ours = trained.pop("ours")
    ratio = {
        peer: {"speed": row["seconds"] / ours["seconds"], "memory": row["peak_mb"] / ours["peak_mb"]}
        for peer, row in trained.items()
    }
    tokens = {name: row.pop("tokens") for name, row in {"ours": ours, **trained}.items()}
    shared = len(set(tokens["ours"]) & set(tokens["tokenizers"])) / len(tokens["tokenizers"])
    checks = {
        "merges equal rustbpe's": tokens["ours"] == tokens["rustbpe"],
        # which numbers the bytes otherwise and so breaks ties otherwise
        f"{shared:.2%} of the tokens are tokenizers'": shared > 0.99,
    }
    repeated = " (the corpus repeated with edits)" if config.mb > CORPUS_MB else ""
    say(f"training {config.vocab:,} tokens on {config.mb:g} MB{repeated}, medians of {config.runs} fresh processes")
    for name, row in {"ours": ours, **trained}.items():
        better = f"  ours is {ratio[name]['speed']:.1f}x as fast" if name in ratio else ""
        say(f"  {name:<24} {row['seconds']:8.3f} s {row['mb_per_s']:8.1f} MB/s {row['peak_mb']:8.0f} MB peak{better}")

    fresh = take(lambda: load_texts(config.data, "val"), config.encode_mb)
    seconds, agree = race_encoding(train_bpe(texts, config.vocab), fresh, config.runs)
    checks["ids equal tiktoken's and tokenizers'"] = agree
    speed = {name: config.encode_mb / taken for name, taken in seconds.items()}
    say(f"encoding {config.encode_mb:g} MB of other documents")
    for name, rate in speed.items():
        say(f"  {name:<24} {rate:8.1f} MB/s")
    ours["encode_mb_per_s"] = {name: rate for name, rate in speed.items() if name.startswith("ours")}
    trained["tiktoken"] = {"encode_mb_per_s": {k: rate for k, rate in speed.items() if k.startswith("tiktoken")}}
    trained["tokenizers"]["encode_mb_per_s"] = speed["tokenizers"]
    ratio["tiktoken"] = {
        "encode_speed": speed["ours, arrays"] / speed["tiktoken, lists"],
        "encode_speed_lists": speed["ours, lists"] / speed["tiktoken, lists"],
        "encode_speed_1_thread": speed["ours, arrays, 1 thread"] / speed["tiktoken, 1 thread"],
    }
    ratio["tokenizers"]["encode_speed"] = speed["ours, arrays"] / speed["tokenizers"]
    for name, same in checks.items():
        say(f"  {name}: {'yes' if same else 'NO'}")
    settings = {
        "mb": config.mb,
        "vocab": config.vocab,
        "runs": config.runs,
        "repeated": bool(repeated),
    }
    BenchmarkResult("tokenizer", ours, trained, ratio, checks, settings).write(config.json)
    if not all(checks.values()):
        sys.exit(1)


if __name__ == "__main__":
    from nanochat.console import run_command

    run_command(Config, run, description=__doc__, prog="python -m benchmarks.tokenizer")
