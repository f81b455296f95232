"""A mixture of one's own from a TOML file, alone and in training."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.console import UserError
from nanochat.corpus import hub
from nanochat.tasks import Mixture, Task, open_task, read_mixture
from nanochat.tasks.recipe import TEST_TOTAL
from nanochat.tasks.rewards import open_tasks, reward
from nanochat.tasks.table import TABLE, names, open_set
from nanochat.train import ChatConfig, train_chat

COLUMNS: dict[str, dict[str, Any]] = {
    "HuggingFaceTB/smol-smoltalk/data": {
        "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Oh"}],
    },
    "local/chat-mix/data": {"messages": [{"role": "user", "content": "Yo"}, {"role": "assistant", "content": "Ah"}]},
    "openai/gsm8k/main": {"question": "1 + 1?", "answer": "<<1+1=2>>2\n#### 2"},
    "allenai/ai2_arc/ARC-Easy": {
        "question": "?", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "A",
    },
    "allenai/ai2_arc/ARC-Challenge": {
        "question": "!", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "B",
    },
    "cais/mmlu/all": {"question": "m?", "subject": "s", "choices": ["a", "b", "c", "d"], "answer": 2},
}  # fmt: skip
TRAIN, TEST = 40, 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A mirror with the sets of the Hub in their schemas, 40 rows to train on and 4 for the test; a file of 5 chats."""
    root = tmp_path_factory.mktemp("recipe")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_BASE_DIR", str(root / "base"))
        patch.setenv("NANOCHAT_HUB_DIR", str(root / "hub"))
        for path, row in COLUMNS.items():
            (root / "hub" / path).mkdir(parents=True)
            for split, n in (("train", TRAIN), ("test", TEST)):
                pq.write_table(pa.Table.from_pylist([row] * n), root / "hub" / path / f"{split}-00000-of-00001.parquet")
        aux = root / "hub/cais/mmlu/auxiliary_train/train-00000-of-00001.parquet"
        aux.parent.mkdir()
        pq.write_table(pa.Table.from_pylist([{"train": COLUMNS["cais/mmlu/all"]}] * TRAIN), aux)
        chats = [[{"role": "user", "content": f"Hi {i}"}, {"role": "assistant", "content": "Ahoy"}] for i in range(5)]
        (root / "mine.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in chats))
        yield root


def write(folder: Path, text: str) -> Path:
    path = folder / "mix.toml"
    path.write_text(text)
    return path


def counts(mixture: Mixture) -> dict[str, int]:
    """Conversations of each set in the order."""
    return dict(Counter(mixture.sets[place][0].name for place, _ in mixture.order))


ALL = ["SmolTalk", "ChatMix", "MMLU", "GSM8K", "ARC-Easy", "ARC-Challenge"]


def test_every_set_by_name_and_a_file(folder: Path) -> None:
    tables = [f'[[set]]\ntask = "{name}"\n' for name in ALL]
    tables += [f'[[set]]\ntask = "{name}"\nsize = 30\n' for name in ("TinyWorld", "SpellingBee", "SimpleSpelling")]
    path = write(folder, "# a comment\n" + "".join(tables) + '[[set]]\nfile = "mine.jsonl"\nepochs = 2.4\n')
    mixture = read_mixture(path, "mid")
    found = counts(mixture)
    assert found == {
        **dict.fromkeys(ALL, TRAIN),
        **dict.fromkeys(("TinyWorld", "SpellingBee", "SimpleSpelling"), 30),
        "mine.jsonl": 12,
    }
    assert all(conversation.messages[-1].role == "assistant" for conversation in mixture)
    assert [c.to_dict() for c in mixture] == [c.to_dict() for c in read_mixture(path, "mid")]
    other = read_mixture(path, "sft")
    assert {str(c) for c in other} != {str(c) for c in mixture}, "the generated sets must not repeat themselves"
    test = counts(read_mixture(path, "mid", "test"))
    assert test.keys() == found.keys()
    assert all(test[name] == TEST for name in ALL) and test["mine.jsonl"] == 5


def test_the_table_says_what_each_set_is_good_for(folder: Path) -> None:
    for name in names("train"):
        items = open_set(name, "train", 0, 5, 1)
        assert items.name == name
        assert len(items) == (5 if TABLE[name].generated else TRAIN)
    for name in names("reward"):
        train, test = open_tasks(name, 0)
        assert isinstance(train, Task) and isinstance(test, Task)
        assert train.name == test.name == name
        assert reward(train, 0, train[0].messages[-1].text) == 1.0
    assert set(names("evaluate")) - set(names("reward")) == {"HumanEval"}
    with pytest.raises(UserError, match="no questions to train 'SmolTalk' on"):
        open_tasks("SmolTalk", 0)
    with pytest.raises(UserError, match="unknown task 'SmolTalk'"):
        open_task("SmolTalk")


def test_epochs_below_one_and_validation_sees_something_of_every_set(folder: Path) -> None:
    path = write(folder, '[[set]]\ntask = "GSM8K"\nepochs = 0.1\n[[set]]\ntask = "ARC-Easy"\nepochs = 3\n')
    assert counts(read_mixture(path, "mid")) == {"GSM8K": 4, "ARC-Easy": 120}
    assert counts(read_mixture(path, "mid", "test")) == {"GSM8K": 1, "ARC-Easy": 4}


@settings(deadline=None, max_examples=25)
@given(st.integers(10, 400), st.lists(st.integers(1, 9), min_size=4, max_size=4))
def test_weights_are_shares_of_the_size(folder: Path, size: int, weights: list[int]) -> None:
    names = ("GSM8K", "ARC-Easy", "SpellingBee")
    sets = [f'[[set]]\ntask = "{name}"\nweight = {w}\n' for name, w in zip(names, weights, strict=False)]
    path = write(folder, f'size = {size}\n{"".join(sets)}[[set]]\nfile = "mine.jsonl"\nweight = {weights[3]}\n')
    found = counts(read_mixture(path, "mid"))
    for name, weight in zip((*names, "mine.jsonl"), weights, strict=True):
        assert abs(found.get(name, 0) - size * weight / sum(weights)) <= 1
    assert sum(counts(read_mixture(path, "mid", "test")).values()) <= TEST_TOTAL


def test_training_leaves_out_no_set_that_is_named(folder: Path) -> None:
    """However small its share is: here 0.01 of a conversation, then 0.04."""
    other = '[[set]]\ntask = "SpellingBee"\n'
    path = write(folder, f'size = 10\n[[set]]\nfile = "mine.jsonl"\nweight = 1\n{other}weight = 1000\n')
    assert counts(read_mixture(path, "mid")) == {"mine.jsonl": 1, "SpellingBee": 10}
    path = write(folder, f'[[set]]\nfile = "mine.jsonl"\nepochs = 0.008\n{other}size = 10\n')
    assert counts(read_mixture(path, "mid")) == {"mine.jsonl": 1, "SpellingBee": 10}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[[set]]\ntask = "gsm8k"\n', "set 1: unknown task 'gsm8k'.*GSM8K"),
        ('[[set]]\ntask = "HumanEval"\n', "HumanEval is not for training"),
        ('[[set]]\nfile = "nowhere.jsonl"\n', "nowhere.jsonl"),
        ('[[set]]\nfile = "empty.jsonl"\n', "holds no conversation"),
        ('[[set]]\nfile = "~nobody-of-that-name/a"\n', "cannot read"),
        ('[[set]]\nfile = "a\\u0000b"\n', "cannot read"),
        ("", "names no sets"),
        ("set = 3\n", "names no sets"),
        ("[[sets]]\n", "names no sets"),
        ('[[set]]\ntask = "GSM8K\n', "not TOML"),
        pytest.param("x = " + "[" * 100_000, "not TOML", id="deep"),
        ('[[set]]\ntask = "GSM8K"\nfile = "mine.jsonl"\n', "either a task or a file"),
        ("[[set]]\nepochs = 1\n", "either a task or a file"),
        ("[[set]]\ntask = 3\n", "either a task or a file"),
        ('[[set]]\ntask = "GSM8K"\nepoch = 1\n', "unknown key 'epoch'"),
        ('epochs = 2\n[[set]]\ntask = "GSM8K"\n', "unknown key 'epochs'"),
        ('[[set]]\ntask = "GSM8K"\nepochs = -1\n', "epochs is -1"),
        ('[[set]]\ntask = "GSM8K"\nepochs = 0\n', "epochs is 0"),
        ('[[set]]\ntask = "GSM8K"\nepochs = "2"\n', "epochs is '2'"),
        ('[[set]]\ntask = "GSM8K"\nepochs = true\n', "epochs is True"),
        ('[[set]]\ntask = "GSM8K"\nepochs = nan\n', "epochs is nan"),
        ('[[set]]\ntask = "GSM8K"\nepochs = inf\n', "epochs is inf"),
        ('[[set]]\ntask = "TinyWorld"\nsize = 2.5\n', "size is 2.5.*whole"),
        ('[[set]]\ntask = "GSM8K"\nsize = 5\n', "has a size"),
        ('size = 9\n[[set]]\ntask = "GSM8K"\nweight = 1\nepochs = 2\n', "weight and also epochs"),
        ('[[set]]\ntask = "GSM8K"\nweight = 1\n', "not all they need"),
        ('size = 9\n[[set]]\ntask = "GSM8K"\nweight = 1\n[[set]]\ntask = "MMLU"\n', "not all they need"),
        ('size = 9\n[[set]]\ntask = "GSM8K"\n', "no weights"),
    ],
)
def test_mistakes_are_named(folder: Path, text: str, problem: str) -> None:
    (folder / "empty.jsonl").write_text("\n")
    with pytest.raises(UserError, match=problem):
        read_mixture(write(folder, text), "mid")


def test_missing_data_and_missing_files_are_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="cannot read the mixture .*none.toml"):
        read_mixture(folder / "none.toml", "mid")
    (tmp_path / "latin.toml").write_bytes(b"\xe9")
    with pytest.raises(UserError, match="latin.toml is not UTF-8 text at byte 0"):
        read_mixture(tmp_path / "latin.toml", "mid")
    path = write(folder, '[[set]]\ntask = "GSM8K"\n')
    with pytest.raises(UserError, match="stage 'rl'"):
        read_mixture(path, "rl")

    def offline(repo: str, commit: str = "") -> dict[str, Any]:
        raise hub.Unreachable(f"cannot get {repo}")

    monkeypatch.setattr(hub, "remote_files", offline)
    monkeypatch.setenv("NANOCHAT_HUB_DIR", str(tmp_path))
    with pytest.raises(UserError, match="cannot get openai/gsm8k"):
        read_mixture(path, "mid")


PACK = Path(__file__).parents[2] / "../shared/data/hub"


@pytest.mark.skipif(not PACK.is_dir(), reason="the data pack is not here")
def test_real_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All conversations of the sets that are there can be read; SmolTalk and MMLU's training set are not."""
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    monkeypatch.setenv("NANOCHAT_HUB_DIR", str(PACK.resolve()))
    names = ("ChatMix", "GSM8K", "ARC-Easy", "ARC-Challenge")
    path = write(tmp_path, "".join(f'[[set]]\ntask = "{name}"\nepochs = 0.5\n' for name in names))
    mixture = read_mixture(path, "sft")
    assert counts(mixture) == {"ChatMix": 6424, "GSM8K": 3736, "ARC-Easy": 1126, "ARC-Challenge": 560}
    assert all(conversation.messages[-1].role == "assistant" for conversation in mixture)
    assert len(read_mixture(path, "sft", "test")) == 338 + 660 + 1188 + 586


@pytest.mark.slow
def test_training_on_it(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_run, base)
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(base))
    chats = [[{"role": "user", "content": f"Hi {i}"}, {"role": "assistant", "content": "Ahoy"}] for i in range(5)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    path = write(tmp_path, '[[set]]\nfile = "mine.jsonl"\nepochs = 3\n[[set]]\ntask = "TinyWorld"\nsize = 20\n')
    common: dict[str, Any] = {
        "device": "cpu", "dtype": "float32", "compile": "off", "eval_every": -1, "eval_tokens": 1024,
        "num_iterations": 2, "mixture": str(path), "model_tag": "d1",
    }  # fmt: skip
    assert train_chat(ChatConfig(stage="mid", **common)).step == 2
    state = train_chat(ChatConfig(stage="sft", **common))
    assert state.settings["mixture"] == "mine.jsonl 5 x 3, TinyWorld 20"
    assert "sft: conversations from mine.jsonl 5 x 3, TinyWorld 20" in capsys.readouterr().out
    # The same file goes on, other conversations begin anew.
    longer = {**common, "num_iterations": 3, "resume": True}
    assert train_chat(ChatConfig(stage="sft", **longer)).step == 3
    assert "Resuming" in capsys.readouterr().out
    (tmp_path / "mine.jsonl").write_text(json.dumps(chats[0]) + "\n")
    train_chat(ChatConfig(stage="sft", **longer))
    assert "starting anew" in capsys.readouterr().out
    with pytest.raises(UserError, match="--mixture takes the place of --data"):
        train_chat(ChatConfig(stage="sft", **common, data=("mine.jsonl",)))
    with pytest.raises(UserError, match="cannot read the mixture"):
        train_chat(ChatConfig(stage="sft", **{**common, "mixture": "nowhere.toml"}))
