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

TRAINERS = ("ours", "rustbpe", "tokenizers")


@dataclass
class Config:
    mb: float = 60
    """MB of text to train on; beyond the corpus it is repeated, with every 17th word changed."""
    vocab: int = 32768
    """Tokens to learn, the 256 bytes included."""
    runs: int = 5
    """Fresh processes of each trainer; medians count."""
    encode_mb: float = 16
    """Text to encode."""
    data: Path | None = None
    """Folder of parquet shards, the last one to encode (default: local/debian-english under NANOCHAT_HUB_DIR)."""
    json: Path | None = None
    """Write the results to this file."""


# Runs in a fresh process. The clock includes the import of its own package and of no other.
def train_once(trainer: str, text_file: str, vocab: int, pattern: str) -> None:
    texts = [document.decode() for document in Path(text_file).read_bytes().split(b"\0")]
    forget_peak()
    began = time.perf_counter()
    ranks = {"ours": _ours, "rustbpe": _rustbpe, "tokenizers": _tokenizers}[trainer](texts, vocab, pattern)
    seconds = time.perf_counter() - began
    peak = peak_mb()
    tokens = [token.hex() for token in sorted(ranks, key=ranks.__getitem__)]
    print(json.dumps({"seconds": seconds, "peak_mb": peak, "tokens": tokens}))


def _ours(texts: list[str], vocab: int, pattern: str) -> dict[bytes, int]:
    from nanochat.tokenizer import train_bpe

    return train_bpe(texts, vocab, pattern)


def _rustbpe(texts: list[str], vocab: int, pattern: str) -> dict[bytes, int]:
    import rustbpe

    tokenizer = rustbpe.Tokenizer()
    tokenizer.train_from_iterator(iter(texts), vocab, pattern=pattern)
    return {bytes(token): rank for token, rank in tokenizer.get_mergeable_ranks()}


def _tokenizers(texts: list[str], vocab: int, pattern: str) -> dict[bytes, int]:
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    learner.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=vocab, initial_alphabet=alphabet, special_tokens=[], show_progress=False)
    )
    vocabulary = learner.get_vocab()
    from nanochat.tokenizer import CHAR_TO_BYTE

    return {bytes(CHAR_TO_BYTE[char] for char in token): rank for token, rank in vocabulary.items()}


def forget_peak() -> None:
    """Reset the peak, if on Linux: reading the text took more memory than holding it."""
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
    from nanochat.corpus import Shards

    folder = data or Path(os.environ.get("NANOCHAT_HUB_DIR", "")) / "local/debian-english"
    files = sorted(folder.glob("*.parquet"))
    if len(files) < 2:
        raise UserError(f"{folder} holds no shards", "Set NANOCHAT_HUB_DIR or give --data FOLDER with parquet shards")
    yield from Shards(files[:-1] if split == "train" else files[-1:])


def take(texts: Callable[[], Iterator[str]], mb: float) -> tuple[list[str], bool]:
    """Documents of `mb` MB in all, and whether the corpus had to be read more than once: then every 17th word is
    changed, differently in each further reading."""
    from nanochat.console import UserError

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
        if not found:
            raise UserError("the corpus has no documents")
        reading += 1
    return found, reading > 1


def size_mb(texts: list[str]) -> float:
    return sum(len(text.encode()) for text in texts) / 1e6


def race_training(texts: list[str], vocab: int, runs: int, trainers: tuple[str, ...] = TRAINERS) -> dict[str, Any]:
    """Per trainer: all runs, and the medians of seconds and peak memory. They take turns, so that noise is shared."""
    from benchmarks.result import median
    from nanochat.console import UserError
    from nanochat.tokenizer import SPLIT_PATTERN

    found: dict[str, list[dict[str, Any]]] = {trainer: [] for trainer in trainers}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "texts"
        file.write_bytes("\0".join(texts).encode())
        for _ in range(runs):
            for trainer in trainers:
                arguments = f"{trainer!r}, {str(file)!r}, {vocab}, {SPLIT_PATTERN!r}"
                code = f"from benchmarks.tokenizer import train_once; train_once({arguments})"
                done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
                if done.returncode:
                    reason = done.stderr.strip().split("\n")[-1]
                    raise UserError(f"{trainer} could not train: {reason}", "Run pip install -e '.[dev]' for the peers")
                found[trainer].append(json.loads(done.stdout.splitlines()[-1]))
    size = size_mb(texts)
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
        "ours, lists": lambda: tokenizer.encode_batch(texts),
        "tiktoken, lists": lambda: peer.encode_ordinary_batch(texts, num_threads=cpu_count()),
        "tokenizers, its objects": lambda: twin.encode_batch_fast(texts, add_special_tokens=False),
        "ours, arrays": lambda: tokenizer.encode_arrays(texts),
        "ours, arrays, 1 thread": lambda: tokenizer.encode_arrays(texts, threads=1),
        "tiktoken, arrays, 1 thread": lambda: [peer.encode_to_numpy(text, disallowed_special=()) for text in texts],
    }
    seconds: dict[str, list[float]] = {name: [] for name in encoders}
    ids = encoders["ours, lists"]()
    agree = ids == encoders["tiktoken, lists"]()
    agree = agree and ids == [found.ids for found in encoders["tokenizers, its objects"]()]
    for _ in range(runs):
        for name, encode in encoders.items():
            began = time.perf_counter()
            encode()
            seconds[name].append(time.perf_counter() - began)
    return {name: median(all_runs) for name, all_runs in seconds.items()}, agree


def run(config: Config) -> None:
    from benchmarks.result import BenchmarkResult
    from nanochat.console import UserError, say
    from nanochat.tokenizer import train_bpe

    if config.runs < 1 or config.mb <= 0 or config.encode_mb <= 0 or config.vocab < 256:
        raise UserError("--runs must be 1 or more, --mb and --encode-mb above 0, --vocab 256 or more")
    texts, repeated = take(lambda: load_texts(config.data, "train"), config.mb)
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
        # tokenizers numbers the bytes differently and so breaks ties differently
        f"at least 90% of the tokens are tokenizers' ({shared:.2%})": shared > 0.9,
    }
    again = " (the corpus repeated with edits)" if repeated else ""
    say(f"training {config.vocab:,} tokens on {config.mb:g} MB{again}, medians of {config.runs} fresh processes")
    for name, row in {"ours": ours, **trained}.items():
        better = f"  ours is {ratio[name]['speed']:.1f}x as fast" if name in ratio else ""
        say(f"  {name:<24} {row['seconds']:8.3f} s {row['mb_per_s']:8.1f} MB/s {row['peak_mb']:8.0f} MB peak{better}")

    fresh, _ = take(lambda: load_texts(config.data, "val"), config.encode_mb)
    seconds, agree = race_encoding(train_bpe(texts, config.vocab), fresh, config.runs)
    checks["ids equal tiktoken's and tokenizers'"] = agree
    speed = {name: size_mb(fresh) / taken for name, taken in seconds.items()}
    say(f"encoding {config.encode_mb:g} MB of other documents")
    for name, rate in speed.items():
        say(f"  {name:<26} {rate:8.1f} MB/s")
    trained["tiktoken"] = {}
    for peer, row in {"ours": ours, **trained}.items():
        row["encode_mb_per_s"] = {name: rate for name, rate in speed.items() if name.startswith(peer)}
    ratio["tiktoken"] = {
        "encode_speed": speed["ours, lists"] / speed["tiktoken, lists"],
        "encode_speed_arrays_1_thread": speed["ours, arrays, 1 thread"] / speed["tiktoken, arrays, 1 thread"],
    }
    ratio["tokenizers"]["encode_speed"] = speed["ours, lists"] / speed["tokenizers, its objects"]
    for name, same in checks.items():
        say(f"  {name}: {'yes' if same else 'NO'}")
    settings = {"mb": config.mb, "vocab": config.vocab, "runs": config.runs, "repeated": repeated}
    BenchmarkResult("tokenizer", ours, trained, ratio, checks, settings).write(config.json)
    if not all(checks.values()):
        sys.exit(1)


if __name__ == "__main__":
    from nanochat.console import run_command

    run_command(Config, run, description=__doc__, prog="python -m benchmarks.tokenizer")
