"""Whatever a checkpoint's files hold, reading it gives what they say or one line that says what is wrong with them.

The manifest always fits, as that of an attacker who wrote both would.
"""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from safetensors.torch import save_file

from nanochat import checkpoint
from nanochat.checkpoint.folder import settle
from nanochat.checkpoint.tensors import BYTES
from nanochat.console import UserError
from nanochat.model import GPT, ModelConfig, load, read_config
from nanochat.tokenizer import Tokenizer
from nanochat.train import state as states
from nanochat.train.state import TrainState

CONFIG = ModelConfig(2, 8, 2, 1, 265, 16, "modern", windows="SL", bigram=5)
JSON = ("config.json", "train_state.json", "tokenizer/meta.json", "manifest.json")
TENSORS = ("model.safetensors", "optimizer.safetensors")
TEXT = ("tokenizer/ranks.tiktoken", "tokenizer/token_bytes.json", "tokenizer/tokenizer.json")
ODD: list[Callable[[], str]] = [
    lambda: random.choice(["NaN", "Infinity", "-Infinity", "1e400", "-1e400", "1e308", "1e-320", "0.5", "-0.0"]),
    lambda: random.choice(["true", "false", "null", '""', '"x"', '"\\u001b[2J\\n"', '"\\ud800"', "[]", "{}", "[[]]"]),
    lambda: str(random.choice([-1, 0, 1, 7, 10**6, 10**12, 2**31, 2**53, 2**63, 2**64, 10**19, 10**30, -(2**63)])),
    lambda: "9" * random.choice([21, 400, 5000]),
    lambda: random.choice(["[", '{"a":']) * random.choice([10, 900, 100_000]),
    lambda: json.dumps("../" * 3 + "etc/passwd"),
    lambda: json.dumps("x" * 5000),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile") / "step_000005"
    folder.mkdir()
    model = GPT(CONFIG).init_weights(0)
    (folder / "config.json").write_text(json.dumps(CONFIG.to_dict()))
    save_file(model.state_dict(), folder / "model.safetensors")
    save_file({f"{k}.momentum": v for k, v in model.state_dict().items()}, folder / "optimizer.safetensors")
    state = TrainState("base", "d2", 5, 9, loader={"version": 2, "streams": {}}, val={"val_bpb": 0.5})
    (folder / "train_state.json").write_text(json.dumps(asdict(state)))
    Tokenizer({bytes([byte]): byte for byte in range(256)}).save(folder / "tokenizer")
    seal(folder)
    return folder


def seal(folder: Path) -> None:
    """Write the manifest that fits what is there."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "manifest.json"]
    files = {path.relative_to(folder).as_posix(): settle(path) for path in paths}
    (folder / "manifest.json").write_text(json.dumps(asdict(checkpoint.Manifest("base", "d2", 5, files))))


def reseal(folder: Path, name: str) -> None:
    values = json.loads((folder / "manifest.json").read_text())
    values["files"][name] = settle(folder / name)
    (folder / "manifest.json").write_text(json.dumps(values))


def read(folder: Path) -> None:
    """All that inference, evaluation and training read."""
    load(folder)
    Tokenizer.load(folder / "tokenizer").encode("Hello, world 12!")
    states.read(folder)


def refused(folder: Path) -> str:
    """The line about what is wrong; "" when nothing is."""
    try:
        read(folder)
    except UserError as error:
        line = str(error)
        assert line.isprintable() and len(line) < 1000, line
        return line
    return ""


def nested(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a JSON value."""
    items = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
    inner = [pair for _, item in items if isinstance(item, dict | list) for pair in nested(item)]
    return [(value, key) for key, _ in items] + inner


def strange_json(text: str) -> str:
    """A JSON text in which one thing is odd."""
    value = json.loads(text)
    container, key = random.choice(nested(value))
    how = random.random()
    if how < 0.1:
        del container[key]
        return json.dumps(value)
    if how < 0.15 and isinstance(container, dict):
        return json.dumps(value).replace(f"{json.dumps(key)}:", f"{json.dumps(key)}: 1, {json.dumps(key)}:", 1)
    if how < 0.25 and isinstance(container, dict):
        container[random.choice(["extra", "__class__", "\x1b[2J\n", "x" * 300])] = "PLACE"
    elif how < 0.3:
        return random.choice(ODD)()
    else:
        container[key] = "PLACE"
    return json.dumps(value).replace('"PLACE"', random.choice(ODD)())


def strange_header(data: bytes) -> bytes:
    """A safetensors file in whose header one thing is odd."""
    length = int.from_bytes(data[:8], "little")
    header, numbers = json.loads(data[8 : 8 + length]), data[8 + length :]
    name = random.choice([key for key in header if key != "__metadata__"])
    facts, how = header[name], random.randrange(9)
    if how == 0:
        facts["dtype"] = random.choice([*BYTES, "F4", "pickle"])
    elif how == 1:
        facts["shape"] = random.choice([[], [0], [-1], [2**40, 2**40], facts["shape"][::-1], [*facts["shape"], 1]])
    elif how == 2:
        begin, end = facts["data_offsets"]
        facts["data_offsets"] = random.choice([[0, end - begin], [begin + 4, end + 4], [end, begin], [begin, 2**64 - 1],
                                               [begin - 2**40, end - 2**40], [begin], [begin, end, end]])  # fmt: skip
    elif how == 3:
        del header[name]
    elif how == 4:
        header[random.choice(["extra", "blocks.2.attn.q.weight"])] = copy.deepcopy(facts)
    elif how == 5:
        header["__metadata__"] = random.choice([1, [], {"a": 1}, "x", {"a": {}}])
    elif how == 6:
        text = strange_json(json.dumps(header)).encode("utf-8", "surrogatepass")
        return len(text).to_bytes(8, "little") + text + numbers
    elif how == 7:
        numbers = random.choice([numbers[:-4], numbers + b"\0" * 4, b""])
    else:
        length = random.choice([0, 7, length - 1, length + 1, len(data), 2**31, 2**63, 2**64 - 1])
        return length.to_bytes(8, "little") + data[8:]
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + numbers


def strange_bytes(data: bytes) -> bytes:
    how, at = random.randrange(6), random.randrange(len(data))
    if how == 0:
        return data[:at]
    if how == 1:
        return data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :]
    if how == 2:
        return data[:at] + random.randbytes(random.randrange(1, 40)) + data[at + 1 :]
    if how == 3:
        return data[at:] + data[:at]
    if how == 4:
        return random.choice([b"", b"\xff\xfe", b"\0" * 100, b"\xef\xbb\xbf" + data, data * 2])
    return data.replace(b"1", b"2", 1)


def strange_place(path: Path) -> None:
    """Something else than a regular file inside the folder."""
    how = random.randrange(8)
    data = path.read_bytes()
    path.unlink()
    if how == 0:
        path.mkdir()
    elif how == 1:
        os.mkfifo(path)
    elif how == 2:
        path.symlink_to("/dev/zero")
    elif how == 3:
        path.symlink_to(path.name)
    elif how == 4:
        path.symlink_to("nowhere")
    elif how == 5:
        outside = path.parents[2] / "outside"
        outside.write_bytes(data)
        path.symlink_to(outside)
    elif how == 6:
        path.symlink_to("/proc/self/mem")


def rewritten_meta(folder: Path) -> None:
    """As an attacker would: the tokenizer's own hashes fit what is there."""
    path = folder / "tokenizer/meta.json"
    meta = json.loads(path.read_text())
    for name in meta["files"]:
        meta["files"][name] = settle(folder / "tokenizer" / name)["sha256"]
    path.write_text(json.dumps(meta))


def spoil(folder: Path) -> None:
    how = random.random()
    if how < 0.35:
        name = random.choice(JSON)
        text = strange_json((folder / name).read_text())
        (folder / name).write_bytes(text.encode("utf-8", "surrogatepass"))
    elif how < 0.65:
        name = random.choice(TENSORS)
        (folder / name).write_bytes(strange_header((folder / name).read_bytes()))
    elif how < 0.9:
        name = random.choice([*JSON, *TENSORS, *TEXT])
        (folder / name).write_bytes(strange_bytes((folder / name).read_bytes()))
        if name in TEXT:
            rewritten_meta(folder)
            reseal(folder, "tokenizer/meta.json")
    else:
        strange_place(folder / random.choice([*JSON, *TENSORS, *TEXT]))
        return
    if name != "manifest.json":
        reseal(folder, name)


def attack(whole: Path, place: Path, seeds: range) -> list[str]:
    """What was said about each of so many spoilt checkpoints."""
    said = []
    for seed in seeds:
        random.seed(seed)
        folder = place / "step_000005"
        shutil.copytree(whole, folder)
        try:
            spoil(folder)
            said.append(refused(folder))
        except Exception as error:
            raise AssertionError(f"seed {seed}") from error
        shutil.rmtree(folder)
    return said


def test_a_whole_one_is_read(whole: Path) -> None:
    assert refused(whole) == ""


@pytest.mark.parametrize("count", [250, pytest.param(1000, marks=pytest.mark.slow)])
def test_spoilt_ones_give_a_line_each(whole: Path, tmp_path: Path, count: int) -> None:
    said = attack(whole, tmp_path, range(count))
    assert sum(map(bool, said)) > 0.8 * count
    assert len({line.replace("0", "") for line in said}) > 0.2 * count  # many different things were wrong


@pytest.mark.slow
def test_many_thousand_spoilt_ones_give_a_line_each(whole: Path, tmp_path: Path) -> None:
    attack(whole, tmp_path, range(1000, 21_000))


def changed(whole: Path, tmp_path: Path, **values: Any) -> Path:
    folder = shutil.copytree(whole, tmp_path / "step_000005")
    (folder / "config.json").write_text(json.dumps({**CONFIG.to_dict(), **values}))
    reseal(folder, "config.json")
    return folder


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("depth", 10**12, "depth is 1000000000000, which is too large"),
        ("depth", 1024, "lacks blocks.2.attn.q.weight"),
        ("width", 2**17, "embed.weight is F32 of 265 x 8 instead of F32 of 265 x 131072"),
        ("width", 10**19, "width is 10000000000000000000, which is too large"),
        ("seq_len", 2**40, "seq_len is .* too large"),
        ("vocab_size", 2**22, "the tokenizer has 265 tokens, and the model in .* 4,194,304"),
        ("vocab_size", 266, "the tokenizer has 265 tokens, and the model in .* 266"),
        ("bigram", 10**9, "bigram is .* too large"),
        ("softcap", 1e-300, "softcap is 1e-300, which is too small"),
        ("rope_base", 1e300, "rope_base is 1e\\+300, which is too large"),
        ("windows", "S" * 10**5, "no pattern of windows"),
        ("arch", "classic", "neither windows nor bigrams"),
    ],
    ids=lambda x: str(x)[:20],
)
def test_sizes_are_checked_before_anything_is_made(
    whole: Path, tmp_path: Path, name: str, value: object, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        load(changed(whole, tmp_path, **{name: value}))


def test_a_long_context_of_wide_heads_is_too_large_a_table() -> None:
    with pytest.raises(UserError, match="seq_len of at most 65,536"):
        ModelConfig(1, 1024, 1, 1, 265, 2**20)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.int32])
def test_weights_of_another_type_are_refused(whole: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    folder = changed(whole, tmp_path)
    tensors = {name: tensor.to(dtype) for name, tensor in GPT(CONFIG).state_dict().items()}
    save_file(tensors, folder / "model.safetensors")
    reseal(folder, "model.safetensors")
    with pytest.raises(UserError, match="instead of F32"):
        load(folder)


@pytest.mark.parametrize("name", ["blocks.7.attn.q.weight.momentum", "momentum", "head.weight.momentum"])
def test_an_optimiser_of_another_model_is_refused(whole: Path, tmp_path: Path, name: str) -> None:
    folder = changed(whole, tmp_path)
    for rank in range(2):
        save_file({name: torch.zeros(265 * 9)}, folder / f"optimizer-{rank:05d}-of-00002.safetensors")
        reseal(folder, f"optimizer-{rank:05d}-of-00002.safetensors")
    with pytest.raises(UserError, match="optimizer-00000-of-00002.safetensors does not fit the model"):
        load(folder)


def test_a_header_of_100_mb_is_not_read(whole: Path, tmp_path: Path) -> None:
    folder = changed(whole, tmp_path)
    with open(folder / "model.safetensors", "wb") as f:
        f.write((100_000_000).to_bytes(8, "little"))
        f.truncate(100_000_008)  # takes no room on the disk
    with pytest.raises(UserError, match="its header has 100,000,000 bytes"):
        checkpoint.read_header(folder / "model.safetensors")


def test_a_file_that_is_larger_than_it_may_be_is_not_read(whole: Path, tmp_path: Path) -> None:
    folder = changed(whole, tmp_path)
    for name in ("config.json", "train_state.json", "tokenizer/tokenizer.json"):
        os.truncate(folder / name, 1 << 40)
    with pytest.raises(UserError, match="config.json: it has more than 1,048,576 bytes"):
        read_config(folder)
    with pytest.raises(UserError, match="train_state.json: it has more than"):
        states.read(folder)
    with pytest.raises(UserError, match="tokenizer.json is damaged"):
        Tokenizer.load(folder / "tokenizer")


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("step", -1, "step is -1, which is less than 0"),
        ("step", 1.5, "step is 1.5"),
        ("step", True, "step is True"),
        ("seconds", float("nan"), "seconds is nan"),
        ("loss", "0", "loss is '0'"),
        ("loader", [], "loader is \\[\\]"),
        ("val", {"val_bpb": "x"}, "val is"),
        ("rates", {"matrix": None}, "rates is"),
        ("tag", 3, "tag is 3"),
        ("world_seed", 1.0, "world_seed is 1.0"),
        ("unheard_of", 1, "unknown keys: unheard_of. Upgrade nanochat"),
        ("odd\n\x1b", 1, r"unknown keys: odd\\n\\x1b"),
        ("version", 99, "Upgrade nanochat"),
    ],
)
def test_every_field_of_the_state_has_its_type(
    whole: Path, tmp_path: Path, field: str, value: object, said: str
) -> None:
    folder = changed(whole, tmp_path)
    values = json.loads((folder / "train_state.json").read_text())
    (folder / "train_state.json").write_text(json.dumps({**values, field: value}))
    with pytest.raises(UserError, match=said):
        states.read(folder)


def test_a_measure_that_is_no_number_does_not_cost_the_training(whole: Path, tmp_path: Path) -> None:
    folder = changed(whole, tmp_path)
    values = json.loads((folder / "train_state.json").read_text())
    (folder / "train_state.json").write_text(json.dumps({**values, "val": {"a": float("nan"), "b": 1.0}}))
    assert states.read(folder).val == {"b": 1.0}


@pytest.mark.parametrize(
    "pattern", ["", "(", "a{99999999}", r"\p{L}+", "x*", "(a+)+$" * 100, r"(?=\s)|\S+|\s", "((?=x)y{99}){99}|(?s:.)"]
)
def test_a_pattern_that_cannot_cut_every_text_is_refused(whole: Path, tmp_path: Path, pattern: str) -> None:
    folder = changed(whole, tmp_path) / "tokenizer"
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps({**meta, "pattern": pattern}))
    with pytest.raises(UserError, match="cannot cut every text"):
        Tokenizer.load(folder)


def test_files_that_the_manifest_does_not_list_are_not_opened(whole: Path, tmp_path: Path) -> None:
    folder = changed(whole, tmp_path)
    os.mkfifo(folder / "optimizer-00000-of-00002.safetensors")  # opening it would wait for a writer
    kept: list[Any] = []
    states.load_optimizer(folder, cast(Any, SimpleNamespace(load_state_dict=kept.extend)))
    assert "head.weight.momentum" in kept
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["files"]["train_state.json"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"lists no train_state.json"):
        states.read(folder)
    del manifest["files"]["tokenizer/ranks.tiktoken"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"lists no tokenizer/ranks.tiktoken"):
        load(folder)


def test_many_keys_and_dimensions_take_no_minutes(whole: Path, tmp_path: Path) -> None:
    folder = changed(whole, tmp_path)
    keys = ", ".join(f'"k{n}": 0' for n in [*range(50_000), 49_999])
    (folder / "config.json").write_text(f"{{{keys}}}")
    with pytest.raises(UserError, match="the key 'k49999' occurs twice"):
        read_config(folder)
    header = json.dumps({"w": {"dtype": "F32", "shape": [2**62] * 200_000, "data_offsets": [0, 0]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(UserError, match="the tensor 'w' has 200,000 dimensions"):
        checkpoint.read_header(folder / "model.safetensors")
