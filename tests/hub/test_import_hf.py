"""Models of transformers, and our exports, become ours: equal logits; what we have no place for is refused by name."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import close_session, constants
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, NanoChatConfig, NanoChatForCausalLM, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import TikTokenConverter

from nanochat import checkpoint
from nanochat.commands import import_hf as command
from nanochat.console import UserError, run_command
from nanochat.hub import export_hf, import_hf
from nanochat.hub.export_tokenizer import write_tokenizer
from nanochat.hub.tokenizers import read_tokenizer
from nanochat.inference import Request, load_engine
from nanochat.model import ModelConfig, load, read_config
from nanochat.tokenizer import SPECIAL_TOKENS, SPLIT_PATTERN, Tokenizer
from nanochat.train import ChatConfig, train_chat
from tests.corpus.hubserver import HubServer
from tests.hub.exporting import RANKS, SHAPES, VOCAB, exported, make, opened, random_ids, tokenizer, write
from tests.hub.upstream_files import write_tokenizer as write_pickle

NEAR = 1e-5
SIZES: dict[str, Any] = {
    "vocab_size": 320, "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 96,
}  # fmt: skip


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "base"
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(folder))
    monkeypatch.delenv("NANOCHAT_HUB_DIR", raising=False)
    return folder


def native(spread: float = 0.1, **settings: Any) -> Any:
    """A model of transformers with random weights."""
    torch.manual_seed(0)
    return NanoChatForCausalLM(NanoChatConfig(**{**SIZES, "initializer_range": spread, **settings})).eval()


def saved(folder: Path, model: Any, **how: Any) -> Path:
    model.save_pretrained(folder, **how)
    write_tokenizer(tokenizer(), folder, 96)
    return folder


def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found = model(ids)
    return (found if isinstance(found, torch.Tensor) else found.logits)[..., :VOCAB].float()


def far(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max())


@pytest.mark.parametrize("case", SHAPES)
def test_our_exports_come_back(tmp_path: Path, case: str) -> None:
    config = SHAPES[case]
    model = make(config)
    source = write(model, "rl", "d", 7)
    folder = import_hf(str(export_hf("rl", tmp_path / "out")))
    assert folder == checkpoint.find("rl", "out", 7)
    there, here = load_file(folder / "model.safetensors"), load_file(source / "model.safetensors")
    assert there.keys() == here.keys() and all(torch.equal(there[name], here[name]) for name in here)
    assert read_config(folder) == config
    ids = random_ids(2, config.seq_len)
    assert torch.equal(logits(load(folder), ids), logits(model, ids))
    assert Tokenizer.load(folder / "tokenizer").hash == tokenizer().hash


def test_windows_come_back() -> None:
    from nanochat.hub.export_formats import choose
    from nanochat.hub.hf_config import read_hf_config

    for depth in (1, 2, 5, 8):
        for windows in ("L", "S", "SSSL", "SL", "LS", "SSLSL"):
            for seq_len in (128, 512, 1024, 2048):
                config = ModelConfig(depth, 32, 4, 4, VOCAB, seq_len, "modern", windows=windows)
                back = read_hf_config(choose(config, "hf", "float32", {}, False).config, "x")[0]
                assert [back.window(layer) for layer in range(depth)] == [config.window(i) for i in range(depth)]
                if windows == config.shape.windows:
                    assert back == config


def test_rounded_rotary_tables_come_back(tmp_path: Path) -> None:
    model = make(ModelConfig(2, 32, 4, 4, VOCAB, 64, rope_dtype="bfloat16"))
    folder = import_hf(str(exported(model, tmp_path / "out")), tag="x")
    assert read_config(folder) == model.config
    unrounded = import_hf(str(export_hf("sft", tmp_path / "plain", "d", unrounded=True)), tag="y")
    assert read_config(unrounded).rope_dtype == ""


@pytest.mark.parametrize("spread", [0.02, 0.1])
@pytest.mark.parametrize("heads", [1, 4])
def test_native_models_have_equal_logits(tmp_path: Path, spread: float, heads: int) -> None:
    """With transformers' eps, which is not ours: it shows where states are small, as after id 1, whose row is zero."""
    model = native(spread, num_key_value_heads=heads)
    folder = import_hf(str(saved(tmp_path / "m", model)))
    assert folder == checkpoint.find("sft", "m", 0)
    ids = random_ids(2, 96)
    ids[:, ::7] = 1
    assert far(logits(load(folder), ids), logits(model, ids)) < NEAR
    assert read_config(folder) == ModelConfig(3, 64, 4, heads, VOCAB, 96, norm_eps=1e-6)


def test_other_bases_softcaps_and_eps(tmp_path: Path) -> None:
    rope = {"rope_type": "default", "rope_theta": 500.0}
    model = native(rope_parameters=rope, final_logit_softcapping=30.0, rms_norm_eps=1e-4)
    folder = import_hf(str(saved(tmp_path / "m", model)))
    config = read_config(folder)
    assert (config.rope_base, config.softcap, config.norm_eps) == (500.0, 30.0, 1e-4)
    ids = random_ids(2, 96)
    assert far(logits(load(folder), ids), logits(model, ids)) < NEAR
    assert torch.equal(load(folder).head.weight, model.lm_head.weight[:VOCAB])
    assert torch.equal(load(folder).embed.weight, model.model.embed_tokens.weight[:VOCAB])


def test_half_precision_and_shards(tmp_path: Path) -> None:
    model = native().to(torch.bfloat16)
    source = saved(tmp_path / "m", model, max_shard_size="100KB")
    assert len(list(source.glob("model-*.safetensors"))) > 2
    folder = import_hf(str(source))
    ids = random_ids(2, 96)
    assert far(logits(load(folder), ids), logits(opened(source, dtype=torch.float32), ids)) < NEAR
    assert all(tensor.dtype == torch.float32 for tensor in load_file(folder / "model.safetensors").values())


def test_older_configs_are_read(tmp_path: Path) -> None:
    """rope_theta beside rope_scaling, and everything that transformers 4 wrote down."""
    model = native()
    source = saved(tmp_path / "m", model)
    edit(source, rope_parameters=None, rope_theta=10000.0, rope_scaling=None, torch_dtype="float32", qkv_bias=False)
    edit(source, id2label={"0": "LABEL_0"}, output_attentions=False, is_encoder_decoder=False, head_dim=16)
    ids = random_ids(1, 96)
    assert far(logits(load(import_hf(str(source))), ids), logits(model, ids)) < NEAR


def test_chat_and_training_at_once(tmp_path: Path) -> None:
    model = native()
    source = saved(tmp_path / "m", model)
    import_hf(str(source), stage="mid")
    engine, manifest = load_engine("mid", "m")
    assert (manifest.stage, manifest.step) == ("mid", 0)
    ids = tokenizer().encode("a hen met the fox")
    (answer,) = engine.generate([Request(ids, 8, 0.0)])
    with torch.no_grad():
        theirs = model.generate(torch.tensor([ids]), max_new_tokens=8, do_sample=False, eos_token_id=None)
    said = theirs[0, len(ids) :].tolist()
    same = next((i for i, token in enumerate(said) if token >= len(RANKS)), len(said))  # ours never samples some
    assert answer.ids[:same] == said[:same]
    done = train_chat(
        ChatConfig(
            stage="sft", model_tag="m", num_iterations=1, conversations=20, dataset="tinyworld", eval_tokens=256,
            total_batch_size=192, device="cpu", dtype="float32", compile="off", eval_every=-1,
        )
    )  # fmt: skip
    assert (done.step, done.tag) == (1, "m")


def test_stage_and_tag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = saved(tmp_path / "m", native())
    assert import_hf(str(source), "rl", "x") == checkpoint.find("rl", "x", 0)
    (source / "chat_template.jinja").unlink()
    assert import_hf(str(source)) == checkpoint.find("base", "m", 0)
    assert "no chat template, so it becomes one of the stage base" in capsys.readouterr().out
    settings = json.loads((source / "tokenizer_config.json").read_text())
    (source / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": "{{ messages }}"}))
    assert import_hf(str(source)) == checkpoint.find("sft", "m", 0)
    below = saved(tmp_path / "mid_checkpoints" / "d9", native())
    assert import_hf(str(below)) == checkpoint.find("mid", "d9", 0)
    import_hf(str(below))
    said = capsys.readouterr().out
    assert "Kept the older mid run d9 as " in said and "d9.previous-1" in said
    with pytest.raises(UserError, match="no name for a model"):
        import_hf(str(below), tag="../x")
    with pytest.raises(UserError, match=r"'my model' is no name for a model.*; or give the import a name with --tag"):
        import_hf(str(below.rename(tmp_path / "my model")))
    with pytest.raises(UserError, match=r"has no config.json"):
        import_hf(str(tmp_path))
    with pytest.raises(UserError, match="is a checkpoint of nanochat already"):
        import_hf(str(checkpoint.find("mid", "d9", 0)))


def test_the_command_and_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: Path) -> None:
    folder = saved(tmp_path / "m", native(), max_shard_size="200KB")
    files = {path.name: path.read_bytes() for path in folder.iterdir()} | {"modeling.py": b"nobody needs this"}
    server = HubServer({"ann/nanochat-d3": files})
    close_session()
    with server.running():
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        run_command(command.Config, command.run, argv=["hf://ann/nanochat-d3", "--stage=sft", "--tag", "d3"])
        asked = {r.path.rpartition("/")[2] for r in server.requests if r.path.startswith("/storage")}
    close_session()
    found = checkpoint.find("sft", "d3", 0)
    assert found.parent == base / "chatsft_checkpoints" / "d3"
    assert json.loads((found / "train_state.json").read_text())["parent"] == "hf://ann/nanochat-d3"
    assert "modeling.py" not in asked and "chat_template.jinja" not in asked and "config.json" in asked


def edit(folder: Path, **settings: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def refused(folder: Path, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        import_hf(str(folder), tag="x")
    assert "\n" not in str(caught.value)
    assert not list((folder.parent / "base").glob("*_checkpoints/x/*")), "something was left"


SETTINGS: dict[str, tuple[Any, str]] = {
    "model_type": ("llama", "the model_type .* is 'llama'"),
    "attention_bias": (True, "attention_bias is True"),
    "attention_dropout": (0.1, "attention_dropout is 0.1"),
    "tie_word_embeddings": (True, "tie_word_embeddings is True"),
    "hidden_act": ("gelu", "hidden_act is 'gelu'"),
    "intermediate_size": (128, "intermediate_size is 128"),
    "head_dim": (8, "head_dim is 8"),
    "rms_norm_eps": (0.1, "norm_eps is 0.1"),
    "final_logit_softcapping": (None, "final_logit_softcapping is None"),
    "logits_soft_cap": (20.0, "logits_soft_cap is 20.0"),
    "rope_scaling": ({"type": "linear", "factor": 2.0}, "rope_scaling is"),
    "rope_parameters": ({"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}, "rope_type is 'yarn'"),
    "layer_types": (["sliding_attention"] * 3, "layer_types is"),
    "sliding_window": (64, "sliding_window is 64"),
    "quantization_config": ({"bits": 4}, "quantization_config is"),
    "use_qk_norm": (True, "use_qk_norm is True"),
    "a\nb\u202e": (1, r"a\\nb\\u202e is 1"),
    "num_hidden_layers": (10**12, "depth is 1000000000000"),
    "hidden_size": ("64", "hidden_size is '64'"),
    "num_attention_heads": (0, "heads is 0"),
    "max_position_embeddings": (2**60, "seq_len is"),
    "num_key_value_heads": (3, "does not fit"),
    "vocab_size": (50304, "50,304 tokens, and its tokenizer 283"),
}


@pytest.mark.parametrize("name", SETTINGS, ids=range(len(SETTINGS)))
def test_settings_unlike_ours_are_refused_by_name(tmp_path: Path, name: str) -> None:
    value, message = SETTINGS[name]
    folder = saved(tmp_path / "m", native())
    edit(folder, **{name: value})
    refused(folder, message)


def test_other_settings_of_the_modern_model(tmp_path: Path) -> None:
    config = SHAPES["pairs, short windows"]
    folder = exported(make(config), tmp_path / "m")
    whole = (folder / "config.json").read_text()
    changes: list[tuple[str, Any, str]] = [
        ("qk_scale", 1.3, "qk_scale is 1.3"), ("sliding_window", 100, "sliding_window is 100"),
        ("layer_types", ["sliding_attention"] * 5, "layer_types is"), ("pair_rows", 96, "weight|pair_embeds"),
        ("rope_base", None, "rope_base is None"),
    ]  # fmt: skip
    for name, value, message in changes:
        edit(folder, **{name: value})
        refused(folder, message)
        (folder / "config.json").write_text(whole)
    import_hf(str(folder), tag="x")


def test_code_in_the_folder_is_not_run(tmp_path: Path) -> None:
    folder = saved(tmp_path / "m", native())
    (folder / "modeling_evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    edit(folder, auto_map={"AutoConfig": "modeling_evil.X", "AutoModelForCausalLM": "modeling_evil.X"})
    import_hf(str(folder))
    assert not (tmp_path / "ran").exists()


def rewritten(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], object]:
    def write_again(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return write_again


def indexed(places: Any, *names: str) -> Callable[[Path], object]:
    def write_index(folder: Path) -> None:
        weights = (folder / "model.safetensors").rename(folder / "one.safetensors")
        for name in names:
            (folder / name).write_bytes(weights.read_bytes())
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))

    return write_index


HEAD, Q = "lm_head.weight", "model.layers.0.self_attn.q_proj.weight"
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut off": (lambda f: cut(f / "model.safetensors", 1000), "no whole safetensors file"),
    "an empty file": (lambda f: cut(f / "model.safetensors", 0), "no whole safetensors file"),
    "a huge head": (lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 64), "no whole safetensors file"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "has no model.safetensors"),
    "a weight less": (rewritten(lambda t: t.pop(Q)), "lacks model.layers.0.self_attn.q_proj.weight"),
    "a weight more": (rewritten(lambda t: t.update(bias=torch.ones(2))), "unknown weight 'bias'"),
    "another shape": (rewritten(lambda t: t.update({Q: torch.ones(64, 32)})), "q_proj.weight in .* is F32 of 64 x 32"),
    "whole numbers": (rewritten(lambda t: t.update({Q: torch.ones(64, 64).long()})), "is I64"),
    "NaN": (rewritten(lambda t: t[Q].fill_(math.nan)), "holds NaN"),
    "infinity in bfloat16": (rewritten(lambda t: t.update({Q: torch.full((64, 64), math.inf).bfloat16()})), "infinite"),
    "an index that leaves the folder": (indexed({HEAD: "../../etc/x.safetensors"}), "is no file of weights beside it"),
    "an index with an absolute path": (indexed({HEAD: "/x.safetensors"}), "is no file of weights beside it"),
    "an index of pickles": (indexed({HEAD: "x.bin"}, "x.bin"), "is no file of weights beside it"),
    "an index of absent files": (indexed({HEAD: "a.safetensors"}), "lacks a.safetensors"),
    "an index of numbers": (indexed({HEAD: 1}), "does not say in which files"),
    "an index that is no object": (indexed([]), "does not say in which files"),
    "the same weight twice": (
        indexed({HEAD: "a.safetensors", Q: "b.safetensors"}, "a.safetensors", "b.safetensors"), "is in two files",
    ),
    "a config that is no object": (lambda f: (f / "config.json").write_text("[]"), "is no JSON object"),
    "a config that is no JSON": (lambda f: (f / "config.json").write_text("{" * 5000), "cannot read .*config.json"),
    "a config that is a folder": (lambda f: ((f / "config.json").unlink(), (f / "config.json").mkdir()), "is a folder"),
    "a marker of nothing": (lambda f: (f / "nanochat_export.json").write_text("{}"), "does not say of which"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer.json and no tokenizer.pkl"),
    "a tokenizer of nothing": (lambda f: (f / "tokenizer.json").write_text("{}"), "no tokenizer of nanochat"),
}  # fmt: skip


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


@pytest.mark.parametrize("case", DAMAGES)
def test_damaged_and_hostile_folders(tmp_path: Path, case: str) -> None:
    damage, message = DAMAGES[case]
    folder = saved(tmp_path / "m", native())
    damage(folder)
    refused(folder, message)


def converted(folder: Path) -> Path:
    """tokenizer.json by transformers' own converter, which lists every way to make a token as a merge."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer().save(folder / "ours")
    names = {name: len(RANKS) + n for n, name in enumerate(SPECIAL_TOKENS)}
    converter = TikTokenConverter(str(folder / "ours" / "ranks.tiktoken"), SPLIT_PATTERN, extra_special_tokens=names)
    PreTrainedTokenizerFast(tokenizer_object=converter.converted()).save_pretrained(folder)
    return folder / "tokenizer.json"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([*" \n'.,aehnmtx12", "fox", " the", "hen "]), max_size=20).map("".join))
def test_converted_tokenizers_are_ours(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = tmp_path_factory.getbasetemp() / "converted"
    path = folder / "tokenizer.json" if folder.exists() else converted(folder)
    ours: Tokenizer = read_tokenizer(path)
    assert ours.hash == tokenizer().hash
    theirs: Any = AutoTokenizer.from_pretrained(folder)
    assert theirs.encode(text) == ours.encode(text)


def test_other_forms_of_the_same_tokenizer(tmp_path: Path) -> None:
    write_tokenizer(tokenizer(), tmp_path, 96)
    path = tmp_path / "tokenizer.json"
    for changes in (
        {},
        {"pre_tokenizer.pretokenizers.1": {"behavior": "Removed", "invert": True}},
        {"model": {"merges": [f"{a} {b}" for a, b in json.loads(path.read_text())["model"]["merges"]]}},
        {"model": {"ignore_merges": False}},
        {"model": {"unk_token": None, "dropout": 0.0, "end_of_word_suffix": ""}},
        {"": {"post_processor": {"type": "TemplateProcessing", "single": []}}},
        {"model.vocab": {name: len(RANKS) + n for n, name in enumerate(SPECIAL_TOKENS)}},
    ):
        assert changed(path, changes).hash == tokenizer().hash


def changed(path: Path, changes: dict[str, dict[str, Any]]) -> Tokenizer:
    """What is read of the file with some of its objects, by their place, updated."""
    file = json.loads(path.read_text())
    for place, values in changes.items():
        inner = file
        for step in place.split(".") if place else ():
            inner = inner[int(step)] if step.isdigit() else inner[step]
        inner.update(values)
    other = path.with_name("other.json")
    other.write_text(json.dumps(file))
    return read_tokenizer(other)


ODD: dict[str, tuple[dict[str, dict[str, Any]], str]] = {
    "a normalizer": ({"": {"normalizer": {"type": "NFC"}}}, "normalizer"),
    "another pattern": (
        {"pre_tokenizer.pretokenizers.1.pattern": {"Regex": r"\w+"}}, "its split pattern cannot cut every text",
    ),
    "no split": ({"": {"pre_tokenizer": {"type": "ByteLevel", "use_regex": True}}}, "pre_tokenizer"),
    "a space in front": ({"pre_tokenizer.pretokenizers.2": {"add_prefix_space": True}}, "adds a space"),
    "GPT-2's split as well": ({"pre_tokenizer.pretokenizers.2": {"use_regex": True}}, "splits twice"),
    "a split that joins": ({"pre_tokenizer.pretokenizers.1": {"behavior": "MergedWithNext"}}, "does not split"),
    "another mark": ({"pre_tokenizer.pretokenizers.0.pattern": {"String": "x"}}, "no sequence of a split"),
    "another model": ({"model": {"type": "Unigram"}}, "not BPE"),
    "dropout": ({"model": {"dropout": 0.1}}, "dropout 0.1"),
    "bytes as fallback": ({"model": {"byte_fallback": True}}, "byte_fallback True"),
    "no merges": ({"model": {"merges": []}}, "its merges do not make the token"),
    "a merge of nothing": ({"model": {"merges": [["a", "ÿÿ"]]}}, "that it does not have"),
    "half a merge": ({"model": {"merges": ["ab"]}}, "merges are damaged"),
    "a gap": ({"model.vocab": {"zz": 99999}}, "special tokens are not the nine"),
    "a word": ({"model.vocab": {"日": 274}}, "is not made of bytes"),
    "more special tokens": (
        {"": {"added_tokens": [{"id": 274, "content": "<|bos|>"}, {"id": 275, "content": "<pad>"}]}}, "not the nine",
    ),
    "no special tokens": ({"": {"added_tokens": []}}, "not the nine"),
    "a special token that takes spaces": ({"added_tokens.3": {"lstrip": True}}, "start.* has lstrip True"),
    "another decoder": ({"": {"decoder": {"type": "Metaspace"}}}, "decoder"),
}  # fmt: skip


@pytest.mark.parametrize("case", ODD)
def test_odd_tokenizers_are_refused(tmp_path: Path, case: str) -> None:
    write_tokenizer(tokenizer(), tmp_path, 96)
    changes, message = ODD[case]
    with pytest.raises(UserError, match=f"holds no tokenizer of nanochat: .*{message}"):
        changed(tmp_path / "tokenizer.json", changes)


def test_merges_in_another_order_are_refused(tmp_path: Path) -> None:
    write_tokenizer(tokenizer(), tmp_path, 96)
    merges = json.loads((tmp_path / "tokenizer.json").read_text())["model"]["merges"]
    with pytest.raises(UserError, match="not in the order"):
        changed(tmp_path / "tokenizer.json", {"model": {"merges": merges[::-1]}})


def test_a_tokenizer_beside_or_elsewhere(tmp_path: Path) -> None:
    folder = saved(tmp_path / "m", native())
    (folder / "tokenizer.json").rename(tmp_path / "tokenizer.json")
    assert import_hf(str(folder), tag="a", tokenizer=str(tmp_path / "tokenizer.json"))
    assert import_hf(str(folder), tag="b", tokenizer=str(tmp_path))
    write_pickle(folder, RANKS)
    again = import_hf(str(folder), tag="c")
    assert Tokenizer.load(again / "tokenizer").hash == tokenizer().hash
    assert import_hf(str(folder), tag="d", tokenizer=str(again / "tokenizer"))


def test_out_and_in_and_out(tmp_path: Path) -> None:
    """A native model that came in leaves with equal logits, too."""
    model = native(0.02)
    import_hf(str(saved(tmp_path / "m", model)), tag="x")
    out = export_hf("sft", tmp_path / "out", "x")
    ids = random_ids(1, 96)
    assert far(logits(opened(out), ids), logits(model, ids)) < NEAR
    assert json.loads((out / "config.json").read_text())["rms_norm_eps"] == 1e-6
