"""Evaluate other models: any causal model of the transformers library, and GGUF files that it can read.

Prompts begin as in lm-eval (0.4.13): with BOS if the tokenizer adds it by itself, else without. An id to score that
has no id before it is predicted from BOS, or from EOS where there is no BOS.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanochat.console import UserError, say
from nanochat.eval.core_model import Group, padded, picked
from nanochat.machine import describe, setup

PACKAGES = "pip install -U transformers accelerate gguf"
CONTEXT = 2048  # of models that do not say, as in lm-eval
LOGITS = 1 << 28  # float32 logits held at once: these models return them for every position
SUFFIXES = {".safetensors", ".json", ".model", ".txt"}  # of a model's and a tokenizer's files


class HFTokenizer:
    """A tokenizer of transformers with what CORE needs.

    bos: the id before a prompt; the model decides whether to run it.
    """

    hash = ""  # the model's hash covers the tokenizer's files too

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        known = [x for x in (tokenizer.bos_token_id, tokenizer.eos_token_id) if x is not None]
        self.bos: int = known[0] if known else 0
        self.puts_bos = tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return self.tokenizer(list(texts), add_special_tokens=False, verbose=False).input_ids if texts else []

    def encode(self, text: str) -> list[int]:
        return self.encode_batch([text])[0]


@dataclass(frozen=True)
class HFSizes:
    """seq_len: ids that a row may have, the first included even where it is not run. vocab_size: ids in all."""

    seq_len: int
    vocab_size: int


class HFModel:
    """A causal model of transformers with what CORE needs. Each architecture makes its logits in its own way.

    A row's first id is run only with keep_first: otherwise it is a placeholder, and the rest runs as if nothing came
    before.
    """

    def __init__(self, model: Any, bos: int, keep_first: bool):
        self.model = model.eval()
        self.bos, self.skip = bos, 0 if keep_first else 1
        text = model.config.get_text_config()
        context = getattr(text, "max_position_embeddings", None) or CONTEXT
        self.config = HFSizes(context + self.skip, text.vocab_size)
        self.device: torch.device = model.device
        self.dtype: torch.dtype = model.dtype

    def answer_logits(self, groups: Sequence[Group]) -> Tensor:
        if groups[0].front:
            found = torch.cat([picked(self._behind(x.front, padded(x.tails, self.device)), [x]) for x in groups])
        else:
            rows = padded([tail for group in groups for tail in group.tails], self.device)
            found = picked(self._whole(rows), groups)
        return found.float()

    def _whole(self, ids: Tensor) -> Tensor:
        """Logits (B, T, V) after every id of ids (B, T)."""
        found = [self._first.expand(ids.size(0), -1, -1)] if self.skip else []
        if ids.size(1) > self.skip:
            found.append(self.model(input_ids=ids[:, self.skip :], use_cache=False).logits)
        return torch.cat(found, dim=1)

    @cached_property
    def _first(self) -> Tensor:
        """Logits (1, 1, V) for an id with none before it."""
        return self.model(input_ids=torch.tensor([[self.bos]], device=self.device), use_cache=False).logits

    def _behind(self, front: list[int], tails: Tensor) -> Tensor:
        """Logits (B, T, V) after every id of tails (B, T), each row preceded by the ids of `front`."""
        from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

        ids = torch.tensor([front], device=self.device)
        past: Any = getattr(
            self.model.base_model(input_ids=ids[:, self.skip :], use_cache=True), "past_key_values", None
        )
        # Other caches, of recurrent layers, may not accept several ids at once.
        kinds = {type(layer) for layer in getattr(past, "layers", ())}
        if kinds and kinds <= {DynamicLayer, DynamicSlidingWindowLayer}:
            past.batch_repeat_interleave(len(tails))
            return self.model(input_ids=tails, past_key_values=past, use_cache=True).logits
        return self._whole(torch.cat((ids.expand(len(tails), -1), tails), dim=1))[:, len(front) :]


@dataclass(frozen=True)
class HFSubject:
    """A model of transformers under test, its tokenizer, and what the results say about it."""

    facts: dict[str, Any]
    model: HFModel
    tokenizer: HFTokenizer


def open_hf(source: str, device: str, dtype: str) -> tuple[HFSubject, int]:
    """A model of transformers, and how many ids to run at once.

    source: a folder, a .gguf file, or a repository on the Hub. Weights are read from safetensors or GGUF, never from
    pickle, and no code that comes with a model is run. UserError says what is missing.
    """
    folder, options = _locate(source)
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging
    except ImportError:
        raise UserError("--hf_path needs the transformers package", f"Run {PACKAGES}") from None
    logging.disable_progress_bar()
    machine = setup(device, dtype)
    options |= {"trust_remote_code": False}
    try:
        tokenizer = HFTokenizer(AutoTokenizer.from_pretrained(folder, **options))
        if "gguf_file" in options:
            from transformers import GgufConfig

            # By default transformers would run the packed weights with kernels that it downloads.
            options["quantization_config"] = GgufConfig(dequantize=True)
        options |= {"dtype": machine.dtype, "use_safetensors": True, "output_loading_info": True}
        loaded: Any = AutoModelForCausalLM.from_pretrained(folder, **options)
        found, report = loaded
        if absent := sorted(report["missing_keys"]):
            raise ValueError(f"its file has no {', '.join(absent)}")
    except ImportError as error:
        raise UserError(f"{source} needs another package: {_first_line(error)}", f"Run {PACKAGES}") from None
    except Exception as error:  # damaged files can raise anything
        remedy = (
            "Give a causal language model with its tokenizer, its weights as safetensors or GGUF (offline: its folder)"
        )
        raise UserError(f"transformers cannot load {source}: {_first_line(error)}", remedy) from None
    model = HFModel(found.to(machine.device), tokenizer.bos, tokenizer.puts_bos)
    path = Path(os.path.expanduser(source))
    name = (path.resolve() if path.exists() else path).name
    facts = {
        "path": source,
        "stage": "hf",
        "tag": name,
        "step": 0,
        "hash": _hash(path, found),
        "dtype": str(model.dtype).removeprefix("torch."),
    }
    say(f"hf {name} ({found.num_parameters():,} parameters) on {describe(machine)}")
    return HFSubject(facts, model, tokenizer), max(1, LOGITS // model.config.vocab_size)


def _locate(source: str) -> tuple[str, dict[str, Any]]:
    """The model's name for from_pretrained, and the other arguments."""
    path = Path(os.path.expanduser(source))
    if path.suffix.lower() == ".gguf" and path.is_file():
        return str(path.parent), {"gguf_file": path.name}
    if path.is_dir():
        return str(path), {}
    if path.suffix.lower() == ".gguf" or not re.fullmatch(r"\w[\w.-]*/[\w.-]+", source) or Path(source).parent.exists():
        raise UserError(f"there is no model {source}", "Give a folder, a .gguf file, or owner/name of one on the Hub")
    return source, {}


def _hash(path: Path, model: Any) -> str:
    """A hash of the files of weights, configuration and tokenizer, or the repository's commit."""
    if not path.exists():
        return str(model.config._commit_hash)
    digest = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(x for x in path.iterdir() if x.suffix in SUFFIXES):
        with file.open("rb") as f:
            digest.update(hashlib.file_digest(f, "sha256").digest())
    return digest.hexdigest()[:16]


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]
