"""One's own conversations on a model: lengths, what is read, where models come from, and a real run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import settings
from hypothesis import strategies as st

from nanochat import checkpoint
from nanochat.checkpoint.arriving import create_anew
from nanochat.console import UserError
from nanochat.hub.bringing import bring, newest_step
from nanochat.model import GPT, ModelConfig, save_weights
from nanochat.pipeline.finetuning import FinetuneConfig, finetune
from nanochat.pipeline.lengths import MOST_GENERAL, OTHERS_TOKENS, STEPS, TOKENS, held_out, lengths
from nanochat.pipeline.own_chats import OwnChats, name_of, write
from nanochat.pipeline.progress import StageLog
from nanochat.tasks import read_mixture
from nanochat.tokenizer import Tokenizer, train_bpe
from nanochat.train import state as states
from nanochat.train.state import TrainState

ROOT = Path(__file__).parents[2]
CONTEXT, BATCH = 64, 512


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    monkeypatch.setenv("NANOCHAT_HUB_DIR", str(tmp_path / "mirror"))
    monkeypatch.delenv("NPROC_PER_NODE", raising=False)
    return tmp_path / "base"


def chat(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def chats(path: Path, number: int = 30) -> Path:
    rows = [chat(f"What is fact {n}?", f"Fact {n} is {n * n}.") for n in range(number)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def a_model(stage: str, tag: str, seed: int = 0) -> Path:
    """A checkpoint of depth 1 that knows nothing, of the tiny world."""
    tokenizer = Tokenizer(train_bpe(["the fact is that facts are what they are " * 20], 300))
    config = ModelConfig(1, 32, 1, 1, tokenizer.vocab_size, CONTEXT, arch="classic")
    model = GPT(config)
    model.init_weights(seed)
    rates = {"matrix": 0.01, "embedding": 0.1, "head": 0.005, "weight_decay": 0.0, "scalar": 0.1}
    state = TrainState(stage, tag, 7, 7, 7 * BATCH, rates=rates, batch_tokens=BATCH, dataset="tinyworld", world_seed=0)
    with states.alone(stage, tag), create_anew(stage, tag, 7) as folder:
        save_weights(config, model.state_dict(), folder)
        tokenizer.save(folder / "tokenizer")
        (folder / "train_state.json").write_text(json.dumps(asdict(state)))
    return checkpoint.find(stage, tag)


def run(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nanochat.commands.finetune", *args]
    told = {**os.environ, "TORCHDYNAMO_DISABLE": "1", **env}
    return subprocess.run(command, cwd=ROOT, env=told, capture_output=True, text=True, timeout=300)


SIZES = st.integers(1, 100_000)


@hypothesis.given(
    source=st.sampled_from(("base", "mid", "sft", "rl")),
    n=SIZES,
    mean=st.integers(4, 3000),
    context=st.sampled_from((64, 256, 2048)),
    ranks=st.sampled_from((1, 4, 8)),
    batch=st.sampled_from((512, 4096, 524_288)),
    general=st.sampled_from(("TinyWorld", "SmolTalk")),
)
def test_lengths_fit_the_amount_of_data(
    source: str, n: int, mean: int, context: int, ranks: int, batch: int, general: str
) -> None:
    found = lengths(source, n, n * min(mean, context), context, ranks, batch, general)
    assert [one.stage for one in found] == (["mid", "sft"] if source == "base" else ["sft"])
    for one in found:
        assert 1 <= one.passes <= 30
        assert 0 < one.general <= MOST_GENERAL
        assert one.batch_tokens % (context * ranks) == 0
        assert one.batch_tokens <= max(batch, context * ranks)
        planned = one.passes * n * min(mean, context) + one.general * min(context, TOKENS.get(general, OTHERS_TOKENS))
        assert one.batch_tokens == context * ranks or planned / one.batch_tokens >= STEPS
        assert one.rate > 0
        assert one.rate <= 0.55 * max(1, (context * ranks / batch) ** 0.5) + 1e-3
    assert n < 40 or 0 < held_out(n) <= n // 20
    assert held_out(39) == 0


def test_what_the_person_asks_for_is_done() -> None:
    [one] = lengths("sft", 50, 5000, 256, 1, 4096, "TinyWorld", asked_passes=3.5, asked_general=0)
    assert (one.passes, one.general) == (3.5, 0)


@settings(deadline=None, max_examples=30)
@hypothesis.given(st.lists(st.tuples(st.text(min_size=1), st.text()), min_size=1, max_size=60, unique=True))
def test_no_conversation_is_lost_or_changed(tmp_path_factory: pytest.TempPathFactory, pairs: list[Any]) -> None:
    folder = tmp_path_factory.mktemp("own")
    file = folder / "mine.jsonl"
    file.write_text("".join(json.dumps(chat(*pair)) + "\n" for pair in pairs))
    own = OwnChats.read([str(file), str(file)])
    assert len(own) == len(pairs)  # a file named twice counts once
    train, out = own.split(held_out(len(own)))
    place = write(folder, train, out, {"sft.toml": '[[set]]\nfile = "own.jsonl"\nepochs = 2\n'})
    assert place == write(folder, train, out, {"sft.toml": '[[set]]\nfile = "own.jsonl"\nepochs = 2\n'})
    back = [one for name in ("own.jsonl", "held-out.jsonl") if (place / name).exists()
            for one in OwnChats.read([str(place / name)]).conversations]  # fmt: skip
    assert sorted(map(repr, back)) == sorted(map(repr, own.conversations))
    assert len(read_mixture(place / "sft.toml", "sft")) == 2 * len(train)
    for prompt in own.prompts():
        assert prompt.messages[-1].text.strip().isprintable()


def test_names_of_models_are_tags(tmp_path: Path) -> None:
    names = {}
    for name in ("chats.jsonl", "Über mich (1).json", "…", "a.b.c.jsonl.gz", "-x", "x" * 200, "日本.jsonl"):
        own = OwnChats((name,), ())
        for source in ("d20", "Qwen.2", "..", "日本", "y" * 200):
            names[name_of(own, source)] = None
            assert checkpoint.lock_file("sft", name_of(own, source))
    assert ("d20-chats" in names and "d20-uber-mich-1" in names) or "d20-ber-mich-1" in names


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no conversation"),
        ('{"messages": []}\n', "line 1"),
        (json.dumps(chat("a", "b")) + "\n{half\n", "line 2"),
        ('{"messages": [{"role": "user", "content": "hi"}]}\n', "the last message is not the assistant's"),
        ('{"text": "hi"}\n', "has no messages"),
    ],
)
def test_bad_conversations_end_it_before_anything_is_brought(
    tmp_path: Path, base: Path, text: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text(text)
    with pytest.raises(UserError, match=said):
        finetune(FinetuneConfig("hf://nobody/nothing", (str(chats(tmp_path / "good.jsonl")), str(file))))
    assert not base.exists() or not any(base.rglob("*.safetensors"))
    assert "Looking for" not in capsys.readouterr().out


def test_a_command_without_conversations_is_one_line() -> None:
    done = run("--from", "base:d1")
    assert done.returncode == 2
    assert done.stderr.startswith("error: there are no conversations to learn. Add --data FILE")


def test_where_a_model_comes_from(tmp_path: Path, base: Path) -> None:
    weights = checkpoint.read_manifest(a_model("base", "d1")).hash
    a_model("sft", "d1", seed=1)
    for given, stage in (("base:d1", "base"), ("d1", "base"), ("sft:d1", "sft")):
        found = bring(given, "new")
        assert found and (found.stage, found.tag) == (stage, "d1")
    found = bring("d1", "new", "sft")
    assert found and found.stage == "sft"
    folder = checkpoint.find("base", "d1")
    for given in (folder, folder.parent, base):  # in the base dir: not copied
        found = bring(str(given), "new")
        assert found and (found.stage, found.tag, found.hash) == ("base", "d1", weights)
    away = tmp_path / "away" / "model"
    away.parent.mkdir()
    folder.parent.rename(away)
    assert bring(str(away), "new", do=False) is None
    found = bring(str(away), "new")
    assert found and (found.stage, found.tag, found.name, found.hash) == ("base", "new", "model", weights)
    (tmp_path / "empty").mkdir()
    file = str(chats(tmp_path / "file"))
    for bad in ("base:nothing", "nothing", str(tmp_path / "empty"), "base:../x", "hf://", "ftp://x/y/z", file):
        with pytest.raises(UserError):
            bring(bad, "new2", do=True)
    assert checkpoint.tags("base") == ["new"]


def test_a_damaged_folder_is_refused(tmp_path: Path) -> None:
    folder = a_model("base", "d1")
    away = folder.parent.rename(tmp_path / "away")
    weights = away / folder.name / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match="is damaged"):
        bring(str(away), "new")
    assert checkpoint.tags("base") == []


@pytest.mark.parametrize(
    ("names", "stage", "found"),
    [
        (["manifest.json", "model.safetensors"], "", ""),
        (["step_000010/manifest.json", "step_000009/manifest.json"], "", "step_000010"),
        (["sft/d4/step_000010/manifest.json", "base/d4/step_000002/manifest.json"], "", "base/d4/step_000002"),
        (["sft/d4/step_000010/manifest.json", "base/d4/step_000002/manifest.json"], "sft", "sft/d4/step_000010"),
        (["base_checkpoints/d4/step_000002/manifest.json"], "rl", None),
        (["model_000010.pt"], "", None),
    ],
)
def test_which_checkpoint_of_many_files(names: list[str], stage: str, found: str | None) -> None:
    assert newest_step(names, stage) == found


def test_of_several_models_one_must_be_named() -> None:
    with pytest.raises(UserError, match="several models: base/a, base/b"):
        newest_step(["base/a/step_000001/manifest.json", "base/b/step_000001/manifest.json"])


def test_dry_run_leaves_nothing(tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a_model("base", "d1")
    before = sorted(base.rglob("*"))
    finetune(FinetuneConfig("base:d1", (str(chats(tmp_path / "chats.jsonl", 100)),), dry_run=True))
    said = capsys.readouterr().out
    assert "mid_train" in said and "chat_sft" in said and "--save_tag=d1-chats" in said
    assert "5 of yours only validate" in said
    finetune(FinetuneConfig("hf://some/body", (str(tmp_path / "chats.jsonl"),), dry_run=True))
    assert "some/body is not in the base dir yet" in capsys.readouterr().out
    for nothing in (str(tmp_path / "nothing"), "d7", "hf://some"):
        with pytest.raises(UserError, match="there is no model"):
            finetune(FinetuneConfig(nothing, (str(tmp_path / "chats.jsonl"),), dry_run=True))
    assert sorted(base.rglob("*")) == before


def test_answers_marked_bad_are_counted_and_not_learnt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a_model("sft", "d1")
    file = tmp_path / "feedback.jsonl"
    history = [*chat("What?", "Hm.")["messages"], *chat("What is it?", "It is a cat.")["messages"]]
    history[1]["weight"] = 0
    marked = [chat("a", "wrong") | {"rating": "bad"}, chat("b", "right") | {"rating": "bad", "given": "wrong"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in [{"messages": history, "rating": "good"}, *marked]))
    finetune(FinetuneConfig("sft:d1", (str(file),), dry_run=True))
    said = capsys.readouterr().out
    assert "2 conversations (1 answer that was marked bad and not corrected is left out) on sft:d1" in said
    assert "--save_tag=d1-feedback" in said
    own = OwnChats.read([str(file)])
    assert [one.messages[-1].text for one in own.conversations] == ["It is a cat.", "right"]
    place = write(tmp_path, own.conversations, [], {})
    assert OwnChats.read([str(place / "own.jsonl")]).conversations == own.conversations  # what is only read stays so


def test_a_model_is_not_trained_onto_itself(tmp_path: Path) -> None:
    a_model("base", "d1")
    with pytest.raises(UserError, match="the tag of the old one"):
        finetune(FinetuneConfig("base:d1", (str(chats(tmp_path / "chats.jsonl")),), model_tag="d1"))


def test_conversations_too_long_for_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a_model("sft", "d1")
    file = tmp_path / "long.jsonl"
    long = "fact " * 200
    file.write_text("".join(json.dumps(chat(q, a)) + "\n" for q, a in ((long, "x"), ("x", long), ("x", "y"))))
    finetune(FinetuneConfig("sft:d1", (str(file),), dry_run=True))
    said = capsys.readouterr().out
    assert "1 of them are longer than the model's context" in said and "1 are left out" in said
    file.write_text(json.dumps(chat(long, "x")))
    with pytest.raises(UserError, match="no answer begins"):
        finetune(FinetuneConfig("sft:d1", (str(file),), dry_run=True))


def test_a_real_run_from_a_chat_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One conversation, on a copy of a model in a folder; when that is gone, the run is still known as done."""
    folder = a_model("sft", "d1")
    away = folder.parent.rename(tmp_path / "away")
    file = chats(tmp_path / "one.jsonl", 1)
    args = ("--from", str(away), "--data", str(file), "--general", "0", "--epochs", "3")
    done = run(*args)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "you:      What is fact 0?" in done.stdout
    assert "chat_web -i sft -g away-one" in done.stdout
    assert checkpoint.tags("sft")[0] == "away-one"
    made = states.read(checkpoint.find("sft", "away-one"))
    assert made.parent == str(checkpoint.find("sft", "away-one-source")) and made.settings["source"] == "sft"
    shutil.rmtree(away)
    finetune(FinetuneConfig(str(away), (str(file),), general=0, epochs=3, dry_run=True))
    assert "chat_sft    [done]" in capsys.readouterr().out


def wait_for(path: Path, pattern: str, process: subprocess.Popen[str]) -> None:
    while not any(path.glob(pattern)):
        assert process.poll() is None
        time.sleep(0.05)


@pytest.mark.slow
def test_killed_anywhere_it_goes_on_and_other_data_starts_anew(tmp_path: Path, base: Path) -> None:
    a_model("base", "d1")
    a_model("mid", "d1", seed=1)
    mid = checkpoint.read_manifest(checkpoint.find("mid", "d1")).hash
    file = chats(tmp_path / "chats.jsonl", 60)
    args = ["--from", "base:d1", "--data", str(file), "--general", "50", "--epochs", "4"]
    command = [sys.executable, "-m", "nanochat.commands.finetune", *args]
    env = {**os.environ, "TORCHDYNAMO_DISABLE": "1"}
    for stage, code in (("mid_checkpoints", signal.SIGKILL), ("chatsft_checkpoints", signal.SIGTERM)):
        with subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, text=True) as process:
            wait_for(base, f"{stage}/d1-chats/step_*", process)
            process.send_signal(code)
            assert process.wait(60) in (75, -signal.SIGKILL, 0)
    done = run(*args)
    assert done.returncode == 0, done.stderr
    assert "mid_train: done already, skipped" in done.stdout
    first = checkpoint.read_manifest(checkpoint.find("sft", "d1-chats")).hash
    again = run(*args)
    assert again.stdout.count("done already, skipped") == 2
    assert checkpoint.read_manifest(checkpoint.find("sft", "d1-chats")).hash == first
    log = StageLog(base / "finetune/d1-chats/stages.json")
    chats(file, 61)
    other = run(*args)
    assert other.returncode == 0 and "Kept the older run as" in other.stdout
    assert StageLog(base / "finetune/d1-chats/stages.json").done != log.done
    assert checkpoint.find("sft", "d1-chats.previous-1")
    assert checkpoint.read_manifest(checkpoint.find("mid", "d1")).hash == mid
