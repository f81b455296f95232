"""transformers' NanoChat models, and what our export writes, become checkpoints of ours.

No code of the folder is run. Configuration and tokenizer come first, then the heads of the files of weights; numbers
are read when all of them fit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from nanochat import checkpoint
from nanochat.checkpoint import Stored
from nanochat.console import UserError, say
from nanochat.hub.export import MARKER, WEIGHTS
from nanochat.hub.export_formats import Format
from nanochat.hub.hf_config import read_hf_config
from nanochat.hub.settling import Arrival, require_free, settle, stage_of_path
from nanochat.hub.source import FAST, LISTED, PICKLED, Source, local, open_source
from nanochat.hub.tokenizers import read_tokenizer
from nanochat.model import GPT, ModelConfig
from nanochat.paths import STAGES
from nanochat.reading import MB, fits, read_json, shown
from nanochat.tokenizer import Tokenizer

CONFIG, INDEX = "config.json", f"{WEIGHTS}.index.json"
TEMPLATES = ("chat_template.jinja", "chat_template.json")
SHARD = re.compile(r"[\w-][\w.-]*\.safetensors", re.ASCII)  # names a file in the folder itself
MOST_SHARDS = 10_000
FLOATS = ("F32", "BF16", "F16")
PADDING = 512  # token tables may have up to the next multiple of this many rows
TABLES = ("embed.", "head.", "value_embeds.")  # with a row for every token
ELSEWHERE = "Take the model from its source again"


def import_hf(given: str, stage: str = "", tag: str = "", tokenizer: str = "") -> Path:
    """Make a checkpoint of ours from a folder or Hub repository (see `open_source`), and return its folder.

    stage: "" for what the folder's path, or the export that wrote it, says; else sft where there is a chat template and
    base where there is none. tag: "" for the folder's name. tokenizer: where it is, when it is not with the model. An
    earlier run of the tag is set aside. UserError for what does not fit, or is damaged; then nothing is written.
    """
    source = open_source(given)
    names = set(source.names())
    if CONFIG not in names:
        raise UserError(f"{source.path} has no {CONFIG}", "Name the folder of a model of transformers")
    if "manifest.json" in names:
        problem = f"{source.path} is a checkpoint of nanochat already, and needs no import"
        raise UserError(problem, "Copy the folder of its run to the others that `nanochat checkpoints ls` names")
    wanted = [name for name in (CONFIG, MARKER, "tokenizer_config.json") if name in names]
    small = dict(zip(wanted, source.take(wanted), strict=True))
    config, form = read_hf_config(_json(small[CONFIG]), str(small[CONFIG]))
    marked = _marked(small.get(MARKER))
    stage = stage or stage_of_path(source) or marked.get("stage", "") or _stage_of_template(small, names, source)
    tag = tag or source.path.name
    require_free(source, stage, tag)
    place = _tokenizer(source, names, tokenizer)
    found = read_tokenizer(place)
    say(f"The tokenizer is that of {place}")
    _require_padded(config.vocab_size, found)
    model = _model(source, names, replace(config, vocab_size=found.vocab_size), config.vocab_size, form)
    return settle(Arrival(stage, tag, marked.get("step", 0), model, found, given))


def _json(path: Path) -> Any:
    try:
        return read_json(path, 64 * MB)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read {path}: {reason}", ELSEWHERE) from None


def _marked(path: Path | None) -> dict[str, Any]:
    """Stage and step that our export wrote down, where it did."""
    if path is None:
        return {}
    values = _json(path)
    good = isinstance(values, dict) and values.get("stage") in list(STAGES) and fits(values.get("step"), int)
    if not good or values["step"] < 0:
        raise UserError(f"{path} does not say of which stage and step the model is", ELSEWHERE)
    return {"stage": values["stage"], "step": values["step"]}


def _stage_of_template(small: Mapping[str, Path], names: set[str], source: Source) -> str:
    chats = bool(names.intersection(TEMPLATES))
    if "tokenizer_config.json" in small and not chats:
        values = _json(small["tokenizer_config.json"])
        chats = isinstance(values, dict) and bool(values.get("chat_template"))
    stage, reason = ("sft", "a") if chats else ("base", "no")
    say(f"{source.path} has {reason} chat template, so it becomes one of the stage {stage} (--stage takes another)")
    return stage


def _tokenizer(source: Source, names: set[str], given: str) -> Path:
    if there := local(given):
        return there
    elsewhere = open_source(given) if given else source
    if FAST in (set(elsewhere.names()) if given else names):
        return elsewhere.take([FAST])[0]
    if path := elsewhere.tokenizer():
        return path
    raise UserError(f"there is no {FAST} and no {PICKLED} in {elsewhere.path}", "Name its folder with --tokenizer")


def _require_padded(rows: int, tokenizer: Tokenizer) -> None:
    """UserError unless the token tables have as many rows as the vocabulary, or a few more, which pad it."""
    tokens = tokenizer.vocab_size
    if not tokens <= rows < tokens + PADDING:
        raise UserError(
            f"the model has {rows:,} tokens, and its tokenizer {tokens:,}",
            "Name the tokenizer that it was trained with: --tokenizer",
        )


def _model(source: Source, names: set[str], config: ModelConfig, rows: int, form: Format) -> GPT:
    """rows: of the token tables, which may be padded."""
    with torch.device("meta"):  # takes no memory
        model = GPT(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    padded = {name: (rows, *shape[1:]) if name.startswith(TABLES) else shape for name, shape in shapes.items()}
    theirs = {form.name(name): name for name in shapes}
    heads = {path: checkpoint.read_header(path) for path in _files(source, names)}
    _require_fit(heads, {name: padded[ours] for name, ours in theirs.items()})
    weights: dict[str, Tensor] = {}
    try:
        for path, head in heads.items():
            with safe_open(path, "pt") as file:
                for name in head.keys() & theirs.keys():
                    weights[theirs[name]] = _fitted(file.get_tensor(name), shapes[theirs[name]], f"{name} in {path}")
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot read the weights of {source.path}: {error}", ELSEWHERE) from None
    model.load_state_dict(weights, assign=True)
    model._set_rope(config.seq_len)  # made on "meta" above, so it has no values yet
    return model.eval()


def _files(source: Source, names: set[str]) -> list[Path]:
    """The files of weights, on this machine: one, or those of an index."""
    if WEIGHTS in names:
        return source.take([WEIGHTS])
    if INDEX not in names:
        raise UserError(f"{source.path} has no {WEIGHTS}", "Only weights in this form can be imported")
    (path,) = source.take([INDEX])
    index = _json(path)
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not fits(places, dict[str, str]) or not places:
        raise UserError(f"{path} does not say in which files the weights are", ELSEWHERE)
    files = sorted(set(places.values()))
    for name in files:
        if not SHARD.fullmatch(name):
            raise UserError(f"{path} names {shown(name)}, which is no file of weights beside it", ELSEWHERE)
    if lacking := [name for name in files if name not in names]:
        raise UserError(f"{source.path} lacks {', '.join(lacking[:LISTED])}", ELSEWHERE)
    if len(files) > MOST_SHARDS:
        raise UserError(f"{path} names {len(files):,} files", ELSEWHERE)
    return source.take(files)


def _require_fit(heads: Mapping[Path, Mapping[str, Stored]], needed: Mapping[str, tuple[int, ...]]) -> None:
    """UserError unless the files together hold exactly these tensors, each once. Tables of sines may be there, too."""
    seen: set[str] = set()
    for path, head in heads.items():
        for name, stored in head.items():
            if name.endswith("rotary_emb.inv_freq"):
                continue
            if name in seen:
                raise UserError(f"the weight {shown(name)} is in two files, one of them {path}", ELSEWHERE)
            if name not in needed:
                remedy = "Only models that are built like ours can be imported"
                raise UserError(f"{path} has the unknown weight {shown(name)}", remedy)
            if stored.dtype not in FLOATS or stored.shape != needed[name]:
                shape = " x ".join(map(str, needed[name]))
                raise UserError(f"{name} in {path} is {stored}, and by {CONFIG} it is {shape}", ELSEWHERE)
            seen.add(name)
    if lacking := [name for name in needed if name not in seen]:
        more = f" and {len(lacking) - 1:,} more weights" if len(lacking) > 1 else ""
        raise UserError(f"{', '.join(path.name for path in list(heads)[:1])} lacks {lacking[0]}{more}", ELSEWHERE)


def _fitted(tensor: Tensor, shape: tuple[int, ...], what: str) -> Tensor:
    """The tensor in float32, without the rows that pad the vocabulary."""
    fitted = tensor[: shape[0]].float().contiguous()
    if not torch.isfinite(fitted).all():
        raise UserError(f"{what} holds NaN or infinite numbers", ELSEWHERE)
    return fitted
