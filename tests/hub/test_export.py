"""An exported model is ours: equal logits, the same tokens, in every way that transformers runs it."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModel, AutoTokenizer, DynamicCache, StaticCache

from nanochat import checkpoint, lock
from nanochat.commands import export_hf as command
from nanochat.console import UserError, run_command
from nanochat.hub import export, export_hf
from nanochat.hub.card import is_ours
from nanochat.inference import Engine, Request, load_engine
from nanochat.model import GPT
from nanochat.model import load as load_ours
from nanochat.tokenizer import SPECIAL_TOKENS, Conversation, render_prompt
from tests.hub import upstream_files
from tests.hub.exporting import CLASSIC, MODERN, SHAPES, VOCAB, exported, make, opened, random_ids, tokenizer, write

ROOT = Path(__file__).parents[2]
NEAR = 1e-5
LENGTH = 200  # of sequences, longer than a short window


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "base"
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(folder))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return folder


@dataclass
class Pair:
    """A model, and what transformers makes of its export. Tests change neither."""

    model: GPT
    theirs: Any
    folder: Path


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pair]:
    """By the name of a shape; each is made once."""

    @functools.cache
    def made(name: str) -> Pair:
        home = tmp_path_factory.mktemp("pair")
        model = make(SHAPES[name])
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("NANOCHAT_BASE_DIR", str(home / "base"))
            folder = exported(model, home / "out")
        return Pair(model, opened(folder), folder)

    return made


@pytest.fixture(params=SHAPES)
def pair(request: pytest.FixtureRequest, pairs: Callable[[str], Pair]) -> Pair:
    return pairs(request.param)


@pytest.fixture(params=["pairs, short windows", "no pairs, even depth, one key head"])
def modern(request: pytest.FixtureRequest, pairs: Callable[[str], Pair]) -> Pair:
    return pairs(request.param)


def far(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max())


def padded(prompts: list[torch.Tensor], width: int, pad: int = 280) -> dict[str, torch.Tensor]:
    """Prompts (n,) of several lengths, padded on the left."""
    ids, mask = torch.full((len(prompts), width), pad), torch.zeros(len(prompts), width, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = prompt
        mask[row, width - len(prompt) :] = 1
    return {"input_ids": ids, "attention_mask": mask}


@torch.no_grad()
def test_logits_are_equal(pair: Pair) -> None:
    model, theirs = pair.model, pair.theirs
    native = type(theirs).__module__.startswith("transformers.models.nanochat")
    assert native != model.config.modern
    ids = random_ids(2, LENGTH)
    found = theirs(ids, output_hidden_states=True)
    assert far(model(ids), found.logits) <= NEAR
    assert found.logits.abs().max() > 1
    assert len(found.hidden_states) == model.config.depth + 1
    assert far(theirs(ids, logits_to_keep=3).logits, model(ids)[:, -3:]) <= NEAR
    assert far(model(ids[:, :1]), theirs(ids[:, :1]).logits) <= NEAR
    plain = opened(pair.folder, attn_implementation="eager")
    assert far(model(ids), plain(ids).logits) <= NEAR


@torch.no_grad()
def test_padding_on_the_left_changes_nothing(pair: Pair) -> None:
    """Not even for the first token, which has none before it."""
    model, theirs = pair.model, pair.theirs
    width = LENGTH
    prompts = [random_ids(n, seed=n) for n in (1, 2, width // 2, width)]
    given = padded(prompts, width)
    position_ids = (given["attention_mask"].cumsum(-1) - 1).clamp_min(0)
    for more in ({}, {"position_ids": position_ids}):
        found = theirs(**given, **more).logits
        assert torch.isfinite(found).all()
        for row, prompt in enumerate(prompts):
            assert far(model(prompt[None])[0], found[row, width - len(prompt) :]) <= NEAR


@torch.no_grad()
@pytest.mark.parametrize("kind", ["by config", "plain", "static"])
def test_chunks_with_a_cache_are_equal(modern: Pair, kind: str) -> None:
    model, theirs = modern.model, modern.theirs
    width = LENGTH
    given = padded([random_ids(width, seed=1), random_ids(width - 31, seed=2)], width)
    cache: Any = {
        "by config": lambda: DynamicCache(config=theirs.config),
        "plain": DynamicCache,
        "static": lambda: StaticCache(config=theirs.config, max_cache_len=width + 9),
    }[kind]()
    ids, mask = given["input_ids"], given["attention_mask"]
    parts, at = [], 0
    for n in (30, 1, 1, 2, width - 35, 1):
        given = {"input_ids": ids[:, at : at + n], "attention_mask": mask[:, : at + n]}
        parts.append(theirs(**given, past_key_values=cache).logits)
        at += n
    assert at == width
    found = torch.cat(parts, 1)
    assert far(model(ids[:1])[0], found[0]) <= NEAR
    assert far(model(ids[1:, 31:])[0], found[1, 31:]) <= NEAR


@torch.no_grad()
def test_a_cache_is_reordered_repeated_and_cropped_with_the_tokens_before(modern: Pair) -> None:
    model, theirs = modern.model, modern.theirs
    ids, new = random_ids(3, 20), random_ids(4, 2, seed=5)
    cache = theirs(ids).past_key_values
    order = torch.tensor([2, 0, 0])
    cache.reorder_cache(order)
    assert (
        far(theirs(new[:3], past_key_values=cache).logits, model(torch.cat((ids[order], new[:3]), 1))[:, -2:]) <= NEAR
    )
    cache.crop(-2)
    cache.batch_select_indices(torch.tensor([0, 2]))
    cache.batch_repeat_interleave(2)
    expected = model(torch.cat((ids[order[[0, 0, 2, 2]]], new), 1))[:, -2:]
    assert far(theirs(new, past_key_values=cache).logits, expected) <= NEAR
    cache.reset()
    assert far(theirs(new, past_key_values=cache).logits, model(new)) <= NEAR


@torch.no_grad()
def test_packed_sequences_do_not_see_each_other(modern: Pair) -> None:
    model, theirs = modern.model, modern.theirs
    ids = random_ids(1, 50)
    positions = torch.cat((torch.arange(20), torch.arange(30)))[None]
    found = theirs(ids, position_ids=positions, use_cache=False).logits
    expected = torch.cat((model(ids[:, :20]), model(ids[:, 20:])), 1)
    assert far(found, expected) <= NEAR


@pytest.mark.parametrize(
    "name",
    [
        "one key head, odd depth, other softcap and base",
        "two key heads, one layer, wide heads",
        "pairs, short windows",
        "no pairs, even depth, one key head",
    ],
)
def test_greedy_answers_of_200_tokens_are_the_engines(name: str, pairs: Callable[[str], Pair]) -> None:
    """One by one, and together with padding on the left."""
    theirs, engine = pairs(name).theirs, Engine(pairs(name).model, tokenizer())
    prompts = [random_ids(n, seed=n) for n in (1, 9, 30)]
    ours = [c.ids for c in engine.generate([Request(p.tolist(), 200, 0.0) for p in prompts])]
    assert [len(ids) for ids in ours] == [200] * 3
    alone = theirs.generate(prompts[1][None], max_new_tokens=200, do_sample=False)
    assert alone[0, 9:].tolist() == ours[1]
    together = theirs.generate(**padded(prompts, 30), max_new_tokens=200, do_sample=False)
    assert together[:, 30:].tolist() == ours


def test_generation_ends_and_suppresses_as_the_engine_does(tmp_path: Path) -> None:
    """With a model that likes special tokens, but for those of a tool call, which in our engine runs the tool."""
    model = make(CLASSIC["heads"], silent=False)
    tool = [tokenizer().special(name) for name in ("<|python_start|>", "<|python_end|>")]
    with torch.no_grad():
        model.head.weight[-len(SPECIAL_TOKENS) :] *= 2
        model.head.weight[tool] = 0
    theirs = opened(exported(model, tmp_path / "out"))
    ours = Engine(load_ours(checkpoint.find("sft")), tokenizer())
    stops = set()
    for seed in range(12):
        prompt = random_ids(5, seed=seed)
        [found] = ours.generate([Request(prompt.tolist(), 40, 0.0)])
        answer = theirs.generate(prompt[None], max_new_tokens=40, do_sample=False)[0, 5:].tolist()
        assert answer == found.ids + ([found.stop] if found.stop is not None else [])
        stops.add(found.stop)
    assert stops == {None, ours.tokenizer.bos, ours.tokenizer.special("<|assistant_end|>")}
    assert theirs.generate(prompt[None], max_new_tokens=40, do_sample=False, suppress_tokens=None)[0].max() > max(tool)


def test_a_trained_models_answers_are_the_engines(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the words of a chat to the words of its answer."""
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tiny_run))
    folder = export_hf("sft", tmp_path / "out")
    words, theirs = AutoTokenizer.from_pretrained(folder, trust_remote_code=True), opened(folder)
    engine, _ = load_engine("sft", device="cpu", dtype="float32")
    chat = [{"role": "user", "content": "Who are you?"}]
    given = words.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    prompt = render_prompt(engine.tokenizer, Conversation.from_dict({"messages": chat}))
    assert given["input_ids"].tolist() == [prompt]
    [ours] = engine.generate([Request(prompt, 30, 0.0)])
    answer = theirs.generate(**given, max_new_tokens=30, do_sample=False)[0, len(prompt) :]
    said = [id for id in ours.ids if id < engine.tokenizer.bos]  # special tokens have the last ids
    assert words.decode(answer, skip_special_tokens=True) == engine.tokenizer.decode(said)


@pytest.mark.slow
def test_beams_samples_and_assistants_work(modern: Pair, pairs: Callable[[str], Pair]) -> None:
    theirs = modern.theirs
    given = padded([random_ids(30, seed=1), random_ids(11, seed=2)], 30)
    how: dict[str, Any] = {"max_new_tokens": 25, "do_sample": False}
    beams = theirs.generate(**given, num_beams=3, **how)
    assert torch.equal(beams, theirs.generate(**given, num_beams=3, use_cache=False, **how))
    torch.manual_seed(0)
    sampled = theirs.generate(**given, max_new_tokens=25, do_sample=True)
    torch.manual_seed(0)
    again = theirs.generate(**given, max_new_tokens=25, do_sample=True, use_cache=False)
    assert torch.equal(sampled, again)
    one = random_ids(1, 40)
    plain = theirs.generate(one, max_new_tokens=120, do_sample=False)
    helper = pairs("narrow, one layer").theirs
    assert torch.equal(plain, theirs.generate(one, assistant_model=helper, max_new_tokens=120, do_sample=False))
    assert torch.equal(plain, theirs.generate(one, prompt_lookup_num_tokens=3, max_new_tokens=120, do_sample=False))
    assert torch.equal(plain, theirs.generate(one, prefill_chunk_size=7, max_new_tokens=120, do_sample=False))
    static = theirs.generate(one, cache_implementation="static", max_new_tokens=120, do_sample=False)
    assert torch.equal(plain, static)


def test_a_conversation_goes_on_with_its_cache(modern: Pair) -> None:
    theirs = modern.theirs
    how: dict[str, Any] = {"max_new_tokens": 20, "do_sample": False, "return_dict_in_generate": True}
    first = theirs.generate(random_ids(1, 15), **how)
    more = torch.cat((first.sequences, random_ids(1, 6, seed=4)), 1)
    held = theirs.generate(more, past_key_values=first.past_key_values, **how).sequences
    assert torch.equal(held, theirs.generate(more, **how).sequences)


@pytest.mark.parametrize("name", ["pairs, short windows", "one key head, odd depth, other softcap and base"])
def test_losses_and_gradients_are_equal(name: str, tmp_path: Path) -> None:
    """Also with recomputed activations."""
    model = make(SHAPES[name])
    theirs = opened(exported(model, tmp_path / "out")).train()
    ids = random_ids(3, 60)
    labels = ids.clone()
    labels[0, :30] = -100
    expected = cross_entropy(model(ids)[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
    expected.backward()
    for recompute in (False, True):
        if recompute:
            theirs.gradient_checkpointing_enable()
        theirs.zero_grad()
        loss = theirs(ids, labels=labels).loss
        loss.backward()
        assert abs(loss.item() - expected.item()) <= NEAR
        pairs = [("lm_head.weight", model.head.weight), ("model.embed_tokens.weight", model.embed.weight)]
        if model.config.modern:
            pairs += [("model.resid_lambdas", model.resid_lambdas), ("model.smear_lambda", model.smear_lambda)]
        for there, ours in pairs:
            assert far(theirs.get_parameter(there).grad, ours.grad) <= NEAR
    if model.config.modern:
        with pytest.raises(ValueError, match="keeps no cache"):  # else every token would forget those before
            theirs.generate(ids[:1], max_new_tokens=3)
    assert abs(theirs(ids, labels=labels, num_items_in_batch=10).loss.item() * 10 / 148 - expected.item()) <= NEAR


@torch.no_grad()
@pytest.mark.parametrize("name", ["pairs, short windows", "two key heads, one layer, wide heads", "2025"])
def test_it_is_saved_and_loaded_again_by_transformers(name: str, tmp_path: Path) -> None:
    model = upstream_files.make(2025) if name == "2025" else make(SHAPES[name])
    theirs = opened(_exported(model, tmp_path / "out"))
    theirs.save_pretrained(tmp_path / "again")
    again = opened(tmp_path / "again")
    ids = random_ids(2, 64)
    assert torch.equal(theirs(ids).logits, again(ids).logits)
    assert type(again).__name__ == type(theirs).__name__
    assert far(model(ids), again(ids).logits) <= NEAR
    inner = AutoModel.from_pretrained(tmp_path / "out", trust_remote_code=True)
    assert torch.equal(inner(ids).last_hidden_state, theirs.model(ids).last_hidden_state)


def _exported(model: GPT, folder: Path, **how: Any) -> Path:
    """Of a model with the vocabulary of upstream_files, too."""
    if model.config.vocab_size == upstream_files.VOCAB:
        from nanochat.hub import import_checkpoint

        source = upstream_files.write(folder.with_name("sft"), model)
        upstream_files.write_tokenizer(source)
        import_checkpoint(str(source), "sft", "theirs", optimizer=False)
        return export_hf("sft", folder, "theirs", **how)
    return exported(model, folder, **how)


@torch.no_grad()
@pytest.mark.parametrize("program", ["hf", "bfloat16"])
@pytest.mark.parametrize("name", ["pairs, short windows", "heads"])
def test_bfloat16(name: str, program: str, tmp_path: Path) -> None:
    """Weights that are stored in it, or cast on loading: logits as near to ours in bfloat16 as rounding allows."""
    model = make(SHAPES[name])
    how: dict[str, Any] = {"dtype": "bfloat16"} if program == "bfloat16" else {}
    folder = exported(model, tmp_path / "out", **how)
    theirs = opened(folder, **({} if how else {"dtype": torch.bfloat16}))
    assert theirs.dtype == torch.bfloat16
    if how:
        assert {t.dtype for t in load_file(folder / "model.safetensors").values()} == {torch.bfloat16}
    ids = random_ids(2, 60)
    ours = load_ours(checkpoint.find("sft"), dtype=torch.bfloat16).bfloat16()
    exact = model(ids)
    assert far(theirs(ids).logits.float(), exact) <= 2 * far(ours(ids), exact)


@torch.no_grad()
def test_rounded_rotary_tables(tmp_path: Path) -> None:
    """Of models of 2025: transformers' own model has none, so its model file comes with it, or they are left out."""
    model = upstream_files.make(2025)
    ids = random_ids(2, 128)
    theirs = opened(_exported(model, tmp_path / "out"))
    assert far(model(ids), theirs(ids).logits) <= NEAR
    assert "trust_remote_code=True" in (tmp_path / "out" / "README.md").read_text()
    native = opened(export_hf("sft", tmp_path / "native", unrounded=True))
    assert type(native).__name__ == "NanoChatForCausalLM"
    assert NEAR < far(model(ids), native(ids).logits) < 0.1
    with pytest.raises(UserError, match="rounded to bfloat16, with which this one was trained"):
        export_hf("sft", tmp_path / "mlx", program="mlx")
    assert not (tmp_path / "mlx").exists()
    export_hf("sft", tmp_path / "mlx", program="mlx", unrounded=True)


def test_the_folder_holds_all_that_is_needed(tmp_path: Path) -> None:
    folder = exported(make(CLASSIC["heads"]), tmp_path / "out")
    assert {path.name for path in folder.iterdir()} == {
        "README.md", "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors",
        "nanochat_export.json", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    found = AutoTokenizer.from_pretrained(folder)
    ours = tokenizer()
    assert found("a fox").input_ids == ours.encode("a fox")
    config = AutoConfig.from_pretrained(folder)
    assert (config.bos_token_id, config.eos_token_id) == (ours.bos, [ours.special("<|assistant_end|>"), ours.bos])
    assert (config.rms_norm_eps, config.final_logit_softcapping) == (2.0**-23, 15.0)
    assert config.rope_parameters == {"rope_type": "default", "rope_theta": 10000.0}
    generation = opened(folder).generation_config
    assert generation.pad_token_id == found.pad_token_id
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    assert is_ours((folder / "README.md").read_text())
    assert "trust_remote_code" not in (folder / "README.md").read_text()
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1  # all of it may be read by the same people
    listed = json.loads((folder / "nanochat_export.json").read_text())
    assert (
        str(tmp_path) not in json.dumps(listed) and listed["weights"] == checkpoint.verify(checkpoint.find("sft")).hash
    )


def test_large_models_are_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(MODERN["pairs, short windows"])
    monkeypatch.setattr(export, "SHARD", 20_000)
    folder = exported(model, tmp_path / "out")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 3 and files[-1] == f"model-{len(files):05d}-of-{len(files):05d}.safetensors"
    for file in files:
        held = load_file(folder / file)
        assert {name for name, where in index["weight_map"].items() if where == file} == set(held)
        assert len(held) == 1 or sum(t.nbytes for t in held.values()) <= 20_000
    assert index["metadata"] == {"total_size": 4 * model.num_params(), "total_parameters": model.num_params()}
    ids = random_ids(1, 20)
    with torch.no_grad():
        assert far(opened(folder)(ids).logits, model(ids)) <= NEAR


FOR_MLX = [name for name, config in CLASSIC.items() if config.softcap == 15 and not config.norm_eps]


@pytest.mark.parametrize("name", FOR_MLX)
def test_the_names_and_shapes_are_those_of_mlx_lm(name: str, tmp_path: Path) -> None:
    """As its models/nanochat.py (mlx-lm 0.32) has them; it takes no others and misses none."""
    config = CLASSIC[name]
    folder = exported(make(config), tmp_path / "out", program="mlx")
    settings = json.loads((folder / "config.json").read_text())
    assert settings["model_type"] == "nanochat" and settings["rope_theta"] == config.rope_base
    width, small = settings["hidden_size"], config.kv_heads * config.head_dim
    names = {"transformer.wte.weight": [VOCAB, width], "lm_head.weight": [VOCAB, width]}
    for layer in range(settings["num_hidden_layers"]):
        names |= {
            f"transformer.h.{layer}.attn.c_q.weight": [width, width],
            f"transformer.h.{layer}.attn.c_k.weight": [small, width],
            f"transformer.h.{layer}.attn.c_v.weight": [small, width],
            f"transformer.h.{layer}.attn.c_proj.weight": [width, width],
            f"transformer.h.{layer}.mlp.c_fc.weight": [settings["intermediate_size"], width],
            f"transformer.h.{layer}.mlp.c_proj.weight": [width, settings["intermediate_size"]],
        }
    held = load_file(folder / "model.safetensors")
    assert {name: list(tensor.shape) for name, tensor in held.items()} == names
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "mlx"}


@torch.no_grad()
@pytest.mark.parametrize("name", FOR_MLX)
def test_logits_of_mlx_lm(name: str, tmp_path: Path) -> None:
    """Where it is installed (`pip install "mlx[cpu]" mlx-lm`). Its norms add 1e-5 where ours add 1e-7."""
    mx = pytest.importorskip("mlx.core")
    from mlx_lm import load
    from mlx_lm.generate import generate_step

    model = make(CLASSIC[name])
    folder = exported(model, tmp_path / "out", program="mlx")
    theirs, tokens = load(str(folder))
    ids = random_ids(2, 64)
    found = torch.tensor(theirs(mx.array(ids.tolist())).tolist())
    assert far(model(ids), found) <= 1e-4
    assert tokens.encode("a fox", add_special_tokens=False) == tokenizer().encode("a fox")
    [ours] = Engine(load_ours(checkpoint.find("sft")), tokenizer()).generate([Request(ids[0, :9].tolist(), 50, 0.0)])
    answer = [int(id) for id, _ in generate_step(mx.array(ids[0, :9].tolist()), theirs, max_tokens=50)]
    assert answer == ours.ids


def test_what_a_format_cannot_hold_is_refused(tmp_path: Path) -> None:
    write(make(MODERN["whole windows"]), tag="modern")
    write(make(CLASSIC["one key head, odd depth, other softcap and base"]), tag="softcap")
    for tag, words in (
        ("modern", "no model like our modern one"),
        ("softcap", "caps logits at 15, and this one at 7.5"),
    ):
        with pytest.raises(UserError, match=words):
            export_hf("sft", tmp_path / "out", tag, program="mlx")
    with pytest.raises(UserError, match="are not rounded"):
        export_hf("sft", tmp_path / "out", "softcap", unrounded=True)
    assert not [path for path in tmp_path.iterdir() if path.name != "base"]


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer/ranks.tiktoken"])
def test_a_damaged_checkpoint_leaves_nothing(tmp_path: Path, file: str) -> None:
    path = write(make(CLASSIC["heads"])) / file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError):
        export_hf("sft", tmp_path / "out")
    assert not [path for path in tmp_path.iterdir() if path.name != "base"]


def test_an_export_replaces_only_an_export_that_nobody_changed(tmp_path: Path) -> None:
    first, second = make(CLASSIC["heads"]), make(CLASSIC["heads"], seed=1)
    folder = exported(first, tmp_path / "out")
    before = (folder / "model.safetensors").read_bytes()
    write(second, step=8)
    export_hf("sft", folder)
    assert (folder / "model.safetensors").read_bytes() != before
    changes = {
        "a file more": lambda: (folder / "notes.txt").write_text("mine"),
        "another file": lambda: (folder / "chat_template.jinja").write_text("mine"),
        "a folder": lambda: (folder / ".git").mkdir(),
        "a link": lambda: (folder / "link").symlink_to("/nowhere"),
        "other weights of the same size": lambda: (folder / "model.safetensors").write_bytes(before),
        "no marker": lambda: (folder / "nanochat_export.json").unlink(),
        "an odd marker": lambda: (folder / "nanochat_export.json").write_text('{"files": {"a": {"size": []}}}'),
    }
    for what, change in changes.items():
        for path in folder.iterdir():
            path.rmdir() if path.is_dir() else path.unlink()
        export_hf("sft", folder)
        change()
        found = sorted(os.listdir(folder))
        with pytest.raises(UserError, match="is not as it was written|no export wrote"):
            export_hf("sft", folder)
        assert sorted(os.listdir(folder)) == found, what
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.lock", "base", "out"]


def test_an_export_that_was_waited_for_is_replaced(tmp_path: Path) -> None:
    """It is one like any other that was there before; other files are not."""
    write(make(MODERN["narrow, one layer"]), step=1)
    write(make(CLASSIC["heads"]), step=2)
    for name, other in (("ours", export_hf("sft", tmp_path / "first", step=1)), ("foreign", tmp_path / "foreign.dir")):
        other.mkdir(exist_ok=True)
        (other / "README.md").write_text("mine")
        folder = tmp_path / name
        with ThreadPoolExecutor() as pool:
            with lock.hold(tmp_path / f".{name}.lock", "the test"):
                running = pool.submit(export_hf, "sft", folder, step=2)
                with pytest.raises(TimeoutError):
                    running.result(1.5)
                other.rename(folder)
            if name == "ours":
                assert opened(running.result()).config.model_type == "nanochat"
            else:
                with pytest.raises(UserError, match="no export wrote"):
                    running.result()


def test_a_card_that_a_person_wrote_stays(tmp_path: Path) -> None:
    folder = exported(make(CLASSIC["heads"]), tmp_path / "out")
    (folder / "README.md").write_bytes("# Mine é\r\n".encode("latin-1"))
    export_hf("sft", folder)
    assert (folder / "README.md").read_bytes() == "# Mine é\r\n".encode("latin-1")
    export_hf("sft", folder)
    assert (folder / "README.md").read_bytes() == "# Mine é\r\n".encode("latin-1")


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    source = write(make(CLASSIC["heads"]))
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    for place, words in (
        (tmp_path / "file", "is a file"),
        ("", "no folder"),
        ("/", "no folder"),
        (tmp_path, "no export wrote"),
        (tmp_path / "file" / "below", "cannot|file"),
        (source, "in the checkpoint itself"),
        (source / "hf", "in the checkpoint itself"),
        ("a\0b", "cannot use"),
    ):
        with pytest.raises(UserError, match=words):
            export_hf("sft", place)
    assert (tmp_path / "file").read_text() == "x"
    assert opened(export_hf("sft", tmp_path / "empty")).config.num_hidden_layers == 2
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    export_hf("sft", tmp_path / "link")
    assert (tmp_path / "link").is_symlink()


def test_a_full_disk_is_told_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(make(CLASSIC["heads"]))
    monkeypatch.setattr("nanochat.paths.shutil.disk_usage", lambda folder: type("Usage", (), {"free": 1000}))
    with pytest.raises(UserError, match="the export needs .* GB free"):
        export_hf("sft", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@torch.no_grad()
def test_a_cache_of_any_known_name(modern: Pair) -> None:
    """transformers 5.24 calls it "cache". One of another name would be lost without a word."""
    model, theirs = modern.model, modern.theirs
    ids = random_ids(2, 20)
    for name in ("past_key_values", "cache"):
        held = theirs(ids[:, :12]).past_key_values
        assert far(theirs(ids[:, 12:], **{name: held}).logits, model(ids)[:, 12:]) <= NEAR
    with pytest.raises(TypeError, match="gives the cache as states"):
        theirs(ids, states=held)
    # Of continuous batching, and of vLLM, which asks whether the model is fit for it.
    with pytest.raises(TypeError, match="a Paged does not keep the tokens before"):
        theirs(ids, cache=type("Paged", (), {})())
    assert not theirs.is_backend_compatible()


def test_inputs_embeds_are_refused(tmp_path: Path) -> None:
    """Tokens are looked up in several tables."""
    theirs = opened(exported(make(MODERN["whole windows"]), tmp_path / "out"))
    with pytest.raises(ValueError, match="needs input_ids"):
        theirs(inputs_embeds=torch.zeros(1, 3, 64))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(make(CLASSIC["heads"]), "base", "small", 7)
    write(make(MODERN["whole windows"]), "base", "small", 9)
    args = ["-i", "base", "--output", str(tmp_path / "out"), "--model_tag", "small", "--step", "7"]
    run_command(command.Config, command.run, argv=[*args, "--dtype", "bfloat16"])
    told = capsys.readouterr().out
    assert "base small, step 7: NanoChatForCausalLM with" in told and "trust_remote_code" not in told
    run_command(command.Config, command.run, argv=["-i", "base", "-o", str(tmp_path / "out")])
    told = capsys.readouterr().out
    assert "step 9: NanoChatModernForCausalLM" in told and "trust_remote_code=True" in told
    with pytest.raises(SystemExit, match="2"):
        run_command(command.Config, command.run, argv=["-i", "sft", "-o", str(tmp_path / "sft")])
    assert "there is no sft checkpoint" in capsys.readouterr().err


@pytest.mark.slow  # two programs that import torch
def test_without_transformers(tmp_path: Path) -> None:
    """It is not needed to write the files, and the folder needs neither us nor a network."""
    write(make(MODERN["whole windows"]))
    code = (
        "import sys; sys.modules['transformers'] = None\n"
        f"from nanochat.hub import export_hf; export_hf('sft', {str(tmp_path / 'out')!r})"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)
    code = (
        "import sys; sys.modules['nanochat'] = None\n"
        "from transformers import AutoModelForCausalLM as Auto\n"
        f"Auto.from_pretrained({str(tmp_path / 'out')!r}, trust_remote_code=True)"
    )
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, check=True, timeout=120)
