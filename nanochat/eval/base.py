"""Measure a base model: bits per byte on its corpus or any text, and a few samples."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path

from nanochat.console import Progress, UserError, say
from nanochat.corpus import Shards, documents, find_info, text_files
from nanochat.eval.bpb import text_bpb
from nanochat.eval.results import version_hash
from nanochat.eval.subject import Subject
from nanochat.inference import Engine, Request, rounded

TOKENS_GPU, TOKENS_CPU = 20 * 524288, 131072  # per split
OPENING_WORDS = 6
LONGEST_OPENING = 80  # characters
PROMPTS = (
    "The capital of France is",
    "The opposite of hot is",
    "If yesterday was Friday, then tomorrow will be",
)


def measure_bpb(
    subject: Subject, data: Path | None = None, dataset: str = "", tokens: int = 0, batch: int = 0, what: str = "bpb"
) -> tuple[dict[str, float], dict[str, str]]:
    """Bits per byte of the corpus ("train", "val") and of `data`, at most `tokens` tokens of each; and the
    `version_hash` of what was measured. what: the name that is printed with it.

    The default corpus is the one the model was trained on; with `data` it may be missing.
    """
    tokens = tokens or (TOKENS_CPU if subject.machine.device.type == "cpu" else TOKENS_GPU)
    corpus = dataset or subject.dataset
    if not corpus and data is None:
        raise UserError(
            "this checkpoint does not say what it was trained on",
            "Name a corpus with --dataset, or a folder with --data",
        )
    texts: dict[str, Iterable[str]] = {}
    if corpus and (dataset or data is None or find_info(corpus) is not None):
        texts = {split: Shards.open(corpus, split) for split in ("train", "val")}
    if data is not None:
        texts["data"] = _documents(text_files(data))
    found, versions = {}, {}
    for split, documents_ in texts.items():
        read: list[str] = []
        with Progress(tokens / subject.machine.ranks.world, f"{split} {what}", unit="tokens") as bar:
            noted = _noted(documents_, read)
            found[split], size = text_bpb(subject.model, subject.tokenizer, noted, tokens, batch, bar.advance)
        where = data if split == "data" else corpus
        if not size:
            raise UserError(f"there is no text to measure in {where}", "Choose another folder or corpus")
        if not math.isfinite(found[split]):
            raise UserError(
                f"the {split} text of {where}: the model's losses are not finite",
                "Set NANOCHAT_DTYPE=float32, or take another checkpoint",
            )
        say(f"{split} {what}: {found[split]:.6f}")
        # Equal documents, byte count and seq_len mean the same text, whatever the tokenizer.
        versions[split] = version_hash([str(size), str(subject.model.config.seq_len), *read])
    return found, versions


def cost_of_int8(
    subject: Subject, plain: Mapping[str, float], data: Path | None, dataset: str, tokens: int, batch: int
) -> dict[str, float]:
    """The same as `plain`, which measure_bpb found, with matrices in eight bits; prints the differences."""
    small = replace(subject, model=rounded(subject.model))
    found, _ = measure_bpb(small, data, dataset, tokens, batch, "bpb in int8")
    for split, value in found.items():
        say(f"{split} bpb in int8: {value / plain[split] - 1:+.3%}")
    return found


def _noted(texts: Iterable[str], hashes: list[str]) -> Iterator[str]:
    """Yield the texts, and append the hash of each to `hashes`."""
    for text in texts:
        hashes.append(version_hash([text]))
        yield text


def _documents(files: Iterable[Path]) -> Iterator[str]:
    for file in files:
        yield from documents(file)


def sample_openings(corpus: str, count: int = 3) -> list[str]:
    """The first words of validation documents, for the model to continue."""
    if not corpus or find_info(corpus) is None:
        return list(PROMPTS[:count])
    found = (opening(text) for text in Shards.open(corpus, "val"))
    return list(islice((words for words in found if words), count))


def opening(text: str) -> str:
    """Its first words. Some scripts have no blanks between them."""
    words = " ".join(text[: 100 * LONGEST_OPENING].split()[:OPENING_WORDS])
    return words if len(words) <= LONGEST_OPENING else words[: LONGEST_OPENING // 4]


def sample_texts(
    subject: Subject, prompts: Iterable[str], unprompted: int = 2, max_tokens: int = 64
) -> list[dict[str, str]]:
    """Print and return continuations of the prompts and a few unprompted texts; on the first rank only."""
    if not subject.machine.ranks.is_main:
        return []
    tokenizer = subject.tokenizer
    asked = [*prompts, *[""] * unprompted]
    requests = [
        Request([tokenizer.bos, *tokenizer.encode(prompt)], max_tokens=max_tokens, temperature=0.8, seed=number)
        for number, prompt in enumerate(asked)
    ]
    done = Engine(subject.model, tokenizer).generate(requests)
    found = [{"prompt": prompt, "text": c.text} for prompt, c in zip(asked, done, strict=True)]
    for sample in found:
        opening = f"{sample['prompt']} ... " if sample["prompt"] else ""
        say(f"> {opening}{' '.join(sample['text'].split())}")
    return found
