"""A checkpoint of ours becomes a folder that transformers, or mlx-lm, loads without us and without a network."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from nanochat import checkpoint, lock
from nanochat.checkpoint.folder import REQUIRED, Manifest
from nanochat.console import Progress, UserError, say
from nanochat.hub.card import is_ours, write_card
from nanochat.hub.card_usage import Made
from nanochat.hub.export_formats import DType, Format, Program, choose
from nanochat.hub.export_tokenizer import write_tokenizer
from nanochat.model import GPT, ModelConfig, read_config, require_vocabulary
from nanochat.paths import is_inside, replace_folder, require_disk, whole
from nanochat.reading import MB, fits, open_regular, read_json
from nanochat.tokenizer import Tokenizer, special

MARKER = "nanochat_export.json"  # names the files that an export wrote, with their hashes
FORMAT_VERSION = 1
CARD = "README.md"
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
SHARD = 5 * 10**9  # bytes of one file of weights at most
REMOTE = Path(__file__).with_name("remote")
BYTES = {"float32": 4, "bfloat16": 2}
# Never sampled by our engine: only a person or a tool says them.
SUPPRESSED = (
    special.USER_START, special.USER_END, special.ASSISTANT_START, special.OUTPUT_START, special.OUTPUT_END,
)  # fmt: skip


def export_hf(
    stage: str,
    output: str | Path,
    tag: str | None = None,
    step: int | None = None,
    dtype: DType = "float32",
    program: Program = "hf",
    unrounded: bool = False,
) -> Path:
    """Write the checkpoint of a stage (the newest, or the one named) into the folder `output`, and return that.

    unrounded: export rotary tables that were rounded to bfloat16 without the rounding. The folder appears whole or not
    at all; one that an export wrote, and nobody changed since, is replaced. UserError for a folder with other files, a
    damaged checkpoint, or a model that the format cannot hold; then nothing is written.
    """
    folder = checkpoint.find(stage, tag, step)
    output = _place(output, folder)
    listed = checkpoint.read_manifest(folder)
    manifest = replace(listed, files={name: listed.files[name] for name in REQUIRED})  # without the optimiser's state
    config = read_config(folder)
    tokenizer = Tokenizer.load(folder / "tokenizer")
    require_vocabulary(config, tokenizer.vocab_size, folder)
    form = choose(config, program, dtype, _token_ids(tokenizer), unrounded)
    shapes = _shapes(config)
    size = sum(shape.numel() for shape in shapes.values()) * BYTES[dtype]
    with ExitStack() as stack:
        old = _sizes(output)
        total = sum(facts["size"] for facts in manifest.files.values()) + size + sum(old.values())
        bar = stack.enter_context(Progress(total / MB, "export", "MiB"))
        for name, what in checkpoint.faults(folder, manifest, on_bytes=lambda n: bar.advance(n / MB)):
            raise UserError(f"{folder / name} {what}", "Choose another --step")
        checkpoint.require_tensors(
            folder / WEIGHTS, {name: checkpoint.Stored("F32", tuple(shape)) for name, shape in shapes.items()}
        )
        _require_ours(output, bar)
        _require_room(output, size)
        stack.enter_context(_alone(output))
        if (now := _sizes(output)) != old:  # by an export that was waited for
            old = now
            _require_ours(output, bar)
        with replace_folder(output) as part:
            try:
                counts = {name: shape.numel() for name, shape in shapes.items()}
                _write_weights(folder / WEIGHTS, part, form, program, dtype, counts, bar)
            except SafetensorError as error:
                raise UserError(f"cannot write {output}: {error}", "Free some disk space") from None
            _write_rest(part, form, program, tokenizer, manifest, folder)
            _keep_readme(output, part)
            for file in part.glob("*.safetensors"):  # which safetensors writes for this user alone
                shutil.copymode(part / CONFIG, file)
            _mark(part, manifest, program, dtype)
            if _sizes(output) != old:
                raise UserError(f"{output} was changed while the export was written", "Run the command again")
    say(
        f"{manifest.stage} {manifest.tag}, step {manifest.step}: {form.architecture} with "
        f"{sum(shape.numel() for shape in shapes.values()):,} parameters, {size / 1e9:.2f} GB of {dtype}, in {output}"
    )
    if form.code:
        say("It brings its own model code: load it with trust_remote_code=True")
    return output


def _place(given: str | Path, source: Path) -> Path:
    """The folder to write, which must be absent, empty, or an export."""
    try:
        output = Path(given).expanduser().resolve()
        if not str(given) or output == output.parent:
            raise UserError(f"{str(given)!r} is no folder to write", "Give --output a new folder")
        if output.exists() and not output.is_dir():
            raise UserError(f"{output} is a file", "Give --output a new folder")
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"cannot use {str(given)!r}: {error}", "Give --output a new folder") from None
    if output == source.resolve() or source.resolve() in output.parents:
        raise UserError(f"{output} lies in the checkpoint itself", "Give --output a folder elsewhere")
    return output


def _token_ids(tokenizer: Tokenizer) -> dict[str, Any]:
    """For config.json. A model ends its answer with <|assistant_end|>, and a document by beginning the next one."""
    # With a token for padding in this file, transformers would never train that token's vector.
    ends = [tokenizer.special(special.ASSISTANT_END), tokenizer.bos]
    return {"bos_token_id": tokenizer.bos, "eos_token_id": ends, "pad_token_id": None}


def _shapes(config: ModelConfig) -> dict[str, torch.Size]:
    with torch.device("meta"):  # takes no memory
        return {name: tensor.shape for name, tensor in GPT(config).state_dict().items()}


@contextmanager
def _alone(output: Path) -> Iterator[None]:
    """One export at a time into a folder."""
    with ExitStack() as stack:
        try:
            stack.enter_context(lock.hold(output.parent / f".{output.name}.lock", f"another export writes {output}"))
        except UserError as error:
            raise UserError(error.problem, "Give --output a folder elsewhere") from None
        yield


def _require_room(output: Path, size: int) -> None:
    try:
        require_disk(output.parent, size, "the export")
    except UserError as error:
        raise UserError(error.problem, "Free some space", "Give --output a folder on another disk") from None


@dataclass(frozen=True)
class _Shard:
    file: str
    names: list[str]


def _shards(sizes: Mapping[str, int]) -> list[_Shard]:
    """Files of at most SHARD bytes for tensors of these sizes (a larger tensor has one of its own)."""
    groups: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if groups[-1] and filled + size > SHARD:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    if len(groups) == 1:
        return [_Shard(WEIGHTS, groups[0])]
    return [_Shard(f"model-{n:05d}-of-{len(groups):05d}.safetensors", group) for n, group in enumerate(groups, 1)]


def _write_weights(
    source: Path,
    folder: Path,
    form: Format,
    program: Program,
    dtype: DType,
    counts: Mapping[str, int],
    bar: Progress,
) -> None:
    """Copy the tensors under their other names, one file's worth in memory at a time. counts: numbers in each."""
    shards = _shards({name: count * BYTES[dtype] for name, count in counts.items()})
    to = torch.bfloat16 if dtype == "bfloat16" else torch.float32
    try:
        opened = safe_open(source, "pt")
    except (OSError, SafetensorError) as error:  # deleted by a training since it was verified
        raise UserError(f"cannot read {source}: {error}", "Run the command again") from None
    with opened as weights:
        for shard in shards:
            made = {}
            for name in shard.names:
                made[form.name(name)] = weights.get_tensor(name).to(to).contiguous()
            save_file(made, folder / shard.file, {"format": "mlx" if program == "mlx" else "pt"})
            bar.advance(sum(counts[name] for name in shard.names) * BYTES[dtype] / MB)
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": sum(counts.values()) * BYTES[dtype], "total_parameters": sum(counts.values())},
            "weight_map": {form.name(name): shard.file for shard in shards for name in shard.names},
        }
        _write(folder / f"{WEIGHTS}.index.json", index)


def _write_rest(
    folder: Path, form: Format, program: Program, tokenizer: Tokenizer, manifest: Manifest, source: Path
) -> None:
    _write(folder / CONFIG, form.config)
    # How chat_cli samples. The engine ends at the same tokens, and never draws those that are suppressed.
    generation = {
        **{name: form.config[name] for name in ("bos_token_id", "eos_token_id")},
        "pad_token_id": tokenizer.special(special.OUTPUT_END),
        "do_sample": True,
        "temperature": 0.6,
        "top_k": 50,
        "suppress_tokens": [tokenizer.special(name) for name in SUPPRESSED],
    }
    _write(folder / "generation_config.json", generation)
    write_tokenizer(tokenizer, folder, form.config["max_position_embeddings"])
    if form.code:
        for kind in ("configuration", "modeling"):
            shutil.copyfile(REMOTE / f"{kind}_{form.code}.py", folder / f"{kind}_{form.code}.py")
    made: Made = "mlx" if program == "mlx" else "remote code" if form.code else "transformers"
    card = write_card(manifest.stage, manifest.tag, source, made=made)
    (folder / CARD).write_text(card, encoding="utf-8", newline="\n")


def _keep_readme(output: Path, part: Path) -> None:
    """A README.md that a person wrote stays."""
    try:
        with open_regular(whole(output) / CARD) as file:
            text = file.read()
    except (OSError, ValueError):
        return
    if not is_ours(text.decode("utf-8", "replace")):
        (part / CARD).write_bytes(text)


def _mark(folder: Path, manifest: Manifest, program: Program, dtype: DType) -> None:
    files = {name: {"size": size, "sha256": checkpoint.sha256(folder / name)} for name, size in _sizes(folder).items()}
    checkpoint_facts = {"stage": manifest.stage, "tag": manifest.tag, "step": manifest.step, "weights": manifest.hash}
    made = {"format_version": FORMAT_VERSION, "format": program, "dtype": dtype, **checkpoint_facts, "files": files}
    _write(folder / MARKER, made)


def _require_ours(output: Path, bar: Progress) -> None:
    """UserError unless the folder is absent or empty, or all in it is as an export wrote it (or a README.md)."""
    if not output.is_dir() or not any(output.iterdir()):
        return
    told = _told(output)
    if told is None:
        raise UserError(f"{output} holds files that no export wrote", "Give --output a new folder")
    for path in sorted(output.iterdir()):
        if path.name not in (MARKER, CARD) and not _is_as_told(path, told.get(path.name), bar):
            problem = f"{output} is an export with changes: {path.name} is not as it was written"
            raise UserError(problem, "Give --output a new folder", "Move that file elsewhere")


def _is_as_told(path: Path, told: tuple[int, str] | None, bar: Progress) -> bool:
    try:
        return (
            told is not None
            and path.stat().st_size == told[0]
            and checkpoint.sha256(path, lambda n: bar.advance(n / MB)) == told[1]
        )
    except (OSError, ValueError):  # a folder, a pipe, a link that leads nowhere
        return False


def _told(output: Path) -> dict[str, tuple[int, str]] | None:
    """Size and hash of every file that the export into this folder wrote; None if it was none."""
    try:
        values = read_json(output / MARKER)
        if not fits(values["files"], dict[str, dict[str, Any]]) or not all(map(is_inside, values["files"])):
            return None
        return {name: (facts["size"], facts["sha256"]) for name, facts in values["files"].items()}
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _sizes(folder: Path) -> dict[str, int]:
    """Size of every file (and link) directly in a folder; {} if there is none."""
    try:
        return {path.name: path.lstat().st_size for path in sorted(folder.iterdir()) if not path.is_dir()}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UserError(f"cannot read {folder}: {error.strerror}", "Give --output a new folder") from None


def _write(path: Path, value: Mapping[str, Any] | Sequence[Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8", newline="\n")
