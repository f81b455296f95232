"""Models of transformers through CORE: the scores are those that transformers itself gives, computed plainly."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from nanochat.commands import base_eval
from nanochat.console import UserError
from nanochat.eval.core_model import Group
from nanochat.eval.core_passes import answer_scores
from nanochat.eval.core_prompts import CoreTask, FewShot, prompts, rows
from nanochat.eval.hf import HFModel, HFTokenizer, _locate, open_hf

transformers = pytest.importorskip("transformers")

SIZES = {"vocab_size": 259, "num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32}
ATTENTION = {**SIZES, "num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 96}
CONFIGS = {
    "llama": lambda: transformers.LlamaConfig(**ATTENTION),
    "a sliding window": lambda: transformers.MistralConfig(**ATTENTION, sliding_window=8),
    "capped logits, both windows": lambda: transformers.Gemma2Config(**ATTENTION, head_dim=8, sliding_window=8),
    "learned positions": lambda: transformers.GPT2Config(
        vocab_size=259, n_layer=2, n_head=4, n_embd=32, n_positions=96, bos_token_id=256, eos_token_id=257
    ),
    "a recurrent memory": lambda: transformers.MambaConfig(**SIZES, state_size=4),
}
LONG = "a long context, of more than sixteen ids"
TASKS = {
    "multiple_choice": [
        {"query": LONG, "choices": ["yes", "no, never", "no"], "gold": 0},
        {"query": "short", "choices": ["b", "a"], "gold": 1},
        {"query": LONG, "choices": ["one", "two"], "gold": 1},
    ],
    "schema": [{"context_options": [f"{LONG} x", f"{LONG} yes"], "continuation": "and so on", "gold": 0}],
    "language_modeling": [{"context": LONG, "continuation": "the end"}, {"context": "x", "continuation": "y"}],
}


def make_tokenizer(puts_bos: bool = False, has_bos: bool = True) -> Any:
    """One id for each byte."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: i for i, letter in enumerate([*letters, "<s>", "</s>", "<pad>"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if puts_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", vocab["<s>"])]
        )
    names = {"bos_token": "<s>"} if has_bos else {}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", **names)


def make_model(kind: str = "llama") -> Any:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS[kind]()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def plain_scores(model: Any, tokenizer: Any, task: CoreTask, question: FewShot) -> list[float]:
    """Mean loss of every answer, a whole prompt at a time and as the tokenizer encodes it."""
    texts = [tokenizer(text).input_ids for text in prompts(task, question)]
    ends = [ids[::-1] for ids in texts]
    asked = texts[1:] if task.kind == "language_modeling" else texts
    found = []
    for ids in asked:
        if task.kind == "schema":
            start = len(ids) - next(i for i, x in enumerate(zip(*ends, strict=False)) if len(set(x)) > 1)
        else:
            start = next((i for i, x in enumerate(zip(*texts, strict=False)) if len(set(x)) > 1), len(texts[0]))
        with torch.inference_mode():
            logits = model(torch.tensor([ids])).logits[0].float()
        losses = F.cross_entropy(logits[start - 1 : -1], torch.tensor(ids[start:]), reduction="none")
        found.append(float(losses.mean()))
    return found


@torch.inference_mode()
def our_scores(model: Any, tokenizer: Any, task: CoreTask, questions: list[FewShot]) -> list[list[float]]:
    mine = HFTokenizer(tokenizer)
    adapted = HFModel(model, mine.bos, mine.puts_bos)
    return answer_scores(adapted, rows(task, questions, mine, adapted.config.seq_len), False, 512)


@pytest.mark.parametrize("puts_bos", [False, True])
@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("task", TASKS)
def test_scores_are_those_of_transformers(task: str, kind: str, puts_bos: bool) -> None:
    model, tokenizer = make_model(kind), make_tokenizer(puts_bos)
    core = CoreTask("t", task, 0, " ", "t.jsonl")
    questions = [FewShot(item) for item in TASKS[task]]
    found = our_scores(model, tokenizer, core, questions)
    expected = [plain_scores(model, tokenizer, core, question) for question in questions]
    for mine, theirs in zip(found, expected, strict=True):
        assert mine == pytest.approx(theirs, abs=2e-5)
    assert len({round(x, 3) for scores in expected for x in scores}) == sum(map(len, expected))


def test_what_has_nothing_before_it_follows_bos_or_else_eos() -> None:
    task = CoreTask("t", "multiple_choice", 0, "", "t.jsonl")
    question = FewShot({"query": "", "choices": ["a", "b"], "gold": 0})
    model = make_model()
    for has_bos in (True, False):
        tokenizer = make_tokenizer(has_bos=has_bos)
        first = tokenizer.bos_token_id if has_bos else tokenizer.eos_token_id
        with torch.inference_mode():
            losses = -model(torch.tensor([[first]])).logits[0, -1].log_softmax(dim=-1)
        expected = [float(losses[tokenizer(x).input_ids[0]]) for x in "ab"]
        assert our_scores(model, tokenizer, task, [question])[0] == pytest.approx(expected, abs=1e-5)


def test_the_longest_prompt_that_fits_is_not_cut() -> None:
    task = CoreTask("t", "multiple_choice", 0, "", "t.jsonl")
    model, tokenizer = make_model("learned positions"), make_tokenizer()
    fits = FewShot({"query": "q" * 95, "choices": ["a", "b"], "gold": 0})
    expected = plain_scores(model, tokenizer, task, fits)
    assert our_scores(model, tokenizer, task, [fits])[0] == pytest.approx(expected, abs=1e-5)
    longer = FewShot({"query": "xyz" + "q" * 95, "choices": ["a", "b"], "gold": 0})
    assert our_scores(model, tokenizer, task, [longer])[0] == pytest.approx(expected, abs=1e-5)


def test_padding_beyond_the_last_position() -> None:
    """Run together, one's long front and the other's long answers are more than the model has positions."""
    task = CoreTask("t", "multiple_choice", 0, "", "t.jsonl")
    model, tokenizer = make_model("learned positions"), make_tokenizer()
    questions = [
        FewShot({"query": "q" * 85, "choices": ["a", "bc"], "gold": 0}),
        FewShot({"query": "r" * 20, "choices": ["a" * 65, "b" * 66], "gold": 0}),
    ]
    found = our_scores(model, tokenizer, task, questions)
    for mine, question in zip(found, questions, strict=True):
        assert mine == pytest.approx(plain_scores(model, tokenizer, task, question), abs=2e-5)


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model's folder, offline."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = tmp_path / "tiny"
    make_model().save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def test_a_folder(saved: Path) -> None:
    subject, batch = open_hf(str(saved), "cpu", "float32")
    assert batch >= 1
    assert (subject.facts["stage"], subject.facts["tag"]) == ("hf", "tiny")
    assert len(subject.facts["hash"]) == 16
    ids = torch.arange(6)[None]
    with torch.inference_mode():
        expected = make_model()(ids[:, 1:]).logits
        found = subject.model.answer_logits([Group([], ids.tolist(), [(0, 1, 6)])])
        assert torch.allclose(found, expected[0], atol=1e-5)


def test_base_eval_of_a_folder(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tmp_path / "base"
    (base / "eval_bundle/eval_data").mkdir(parents=True)
    items = [{"query": f"{LONG} {i}", "choices": ["yes", "no"], "gold": i % 2} for i in range(9)]
    (base / "eval_bundle/eval_data/q.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    (base / "eval_bundle/core.yaml").write_text(
        "icl_tasks:\n- label: q\n  dataset_uri: q.jsonl\n  num_fewshot: [2]\n  icl_task_type: multiple_choice\n"
    )
    (base / "eval_bundle/eval_meta_data.csv").write_text("Eval Task,Random baseline\nq,50\n")
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(base))
    monkeypatch.delenv("NANOCHAT_EVAL_BUNDLE", raising=False)
    config = base_eval.Config(hf_path=str(saved), shots=0, device="cpu", dtype="float32", json=tmp_path / "r.json")
    base_eval.run(config)
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["checkpoint"]["stage"] == "hf"
    assert "core" not in found and "bpb" not in found
    model, tokenizer = make_model(), make_tokenizer()
    task = CoreTask("q", "multiple_choice", 0, " ", "q.jsonl")
    expected = [plain_scores(model, tokenizer, task, FewShot(item)) for item in items]
    right = sum(scores.index(min(scores)) == item["gold"] for scores, item in zip(expected, items, strict=True))
    assert found["tasks"]["q"]["accuracy"] == right / 9
    with pytest.raises(UserError, match="for CORE"):
        base_eval.run(base_eval.Config(hf_path=str(saved), eval="bpb"))


def test_pickle_is_refused(saved: Path) -> None:
    (saved / "model.safetensors").unlink()
    torch.save(make_model().state_dict(), saved / "pytorch_model.bin")
    with pytest.raises(UserError, match="cannot load"):
        open_hf(str(saved), "cpu", "float32")


def test_a_model_that_lacks_weights_is_refused(saved: Path) -> None:
    """Else they would be random ones."""
    make_model().base_model.save_pretrained(saved)
    with pytest.raises(UserError, match=r"cannot load .*tiny: its file has no lm_head.weight"):
        open_hf(str(saved), "cpu", "float32")


def test_the_hash_is_of_all_that_decides_a_score(saved: Path) -> None:
    found = [open_hf(str(saved), "cpu", "float32")[0].facts["hash"]]
    for name, old, new in (("config.json", '"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-02'),
                           ("tokenizer.json", '"add_prefix_space": false', '"add_prefix_space": true')):  # fmt: skip
        text = (saved / name).read_text()
        assert old in text
        (saved / name).write_text(text.replace(old, new))
        found.append(open_hf(str(saved), "cpu", "float32")[0].facts["hash"])
    assert len(set(found)) == 3


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_damaged_files_are_one_clear_error(saved: Path, name: str) -> None:
    whole = (saved / name).read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], whole[::-1], b'{"vocab_size": "many"}'):
        (saved / name).write_bytes(damaged)
        with pytest.raises(UserError, match="cannot load") as error:
            open_hf(str(saved), "cpu", "float32")
        assert "\n" not in str(error.value)


def test_whatever_a_damaged_file_makes_the_library_raise_is_one_clear_error(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As GGUF files cut short do."""

    def read(*_: Any, **__: Any) -> None:
        struct.unpack_from("<q", b"")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", read)
    with pytest.raises(UserError, match="cannot load .*: unpack_from requires"):
        open_hf(str(saved), "cpu", "float32")


def test_code_that_comes_with_a_model_is_not_run(saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}}
    (saved / "config.json").write_text(json.dumps(config))
    (saved / "own.py").write_text(f"open({str(saved / 'ran')!r}, 'w')\n")
    with pytest.raises(UserError, match="cannot load"):
        open_hf(str(saved), "cpu", "float32")
    assert not (saved / "ran").exists()


def test_repositories_of_the_hub_may_have_dots() -> None:
    for source in ("Qwen/Qwen2.5-0.5B", "meta-llama/Llama-3.2-1B", "gpt_2/x"):
        assert _locate(source) == (source, {})


def test_what_is_not_there_is_one_clear_error(tmp_path: Path, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for source in ("none", "none.gguf", str(tmp_path / "none/model")):
        with pytest.raises(UserError, match="there is no model"):
            open_hf(source, "cpu", "float32")
    with pytest.raises(UserError, match="cannot load"):
        open_hf(str(tmp_path), "cpu", "float32")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match="Run pip install -U transformers"):
        open_hf(str(saved), "cpu", "float32")
