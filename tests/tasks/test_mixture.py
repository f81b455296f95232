from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.console import UserError
from nanochat.conversation import Conversation
from nanochat.tasks import CustomJSON, Mixture, default_mixture
from nanochat.tasks.mixture import passes_alone


class Numbers:
    def __init__(self, name: str, size: int) -> None:
        self.name, self.size = name, size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, i: int) -> Conversation:
        messages = [{"role": "user", "content": self.name}, {"role": "assistant", "content": str(i)}]
        return Conversation.from_dict({"messages": messages})


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    monkeypatch.setenv("NANOCHAT_HUB_DIR", str(tmp_path / "hub"))
    (tmp_path / "hub").mkdir()
    return tmp_path


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 5), st.integers(0, 12))
def test_every_item_comes_once_an_epoch(a: int, b: int, seed: int, quarters: int) -> None:
    mixture = Mixture([(Numbers("a", a), 1), (Numbers("b", b), quarters / 4)], seed)
    assert len(mixture) == a + (quarters // 4) * b + round(quarters % 4 / 4 * b)
    counts = Counter((c.messages[0].text, c.messages[1].text) for c in mixture)
    assert all(counts["a", str(i)] == 1 for i in range(a))
    assert all(counts["b", str(i)] - quarters // 4 in (0, 1) for i in range(b))


def test_the_order_is_shuffled_and_the_same_every_time() -> None:
    def order(seed: int) -> list[str]:
        return [c.messages[1].text for c in Mixture([(Numbers("a", 50), 1)], seed)]

    assert order(1) == order(1) != order(2)
    assert order(1) != sorted(order(1), key=int)


def test_an_empty_mixture_and_negative_epochs_are_refused() -> None:
    with pytest.raises(UserError):
        Mixture([])
    with pytest.raises(UserError):
        Mixture([(Numbers("a", 3), -1)])


def test_inside_the_tiny_world(offline: Path) -> None:
    mine = offline / "mine.jsonl"
    mine.write_text('[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ahoy"}]\n')
    mixture, missing = default_mixture("mid", dataset="tinyworld", size=200, files=[mine])
    assert missing == []
    names = [items.name for items, _ in mixture.sets]
    assert names == ["TinyWorld", "SpellingBee", "SimpleSpelling", "mine.jsonl"]
    assert len(mixture) == 200 + 2
    assert "TinyWorld" in mixture.describe()
    assert "mine.jsonl 1 x 2" in mixture.describe()
    texts = {c.messages[-1].text for c in mixture}
    assert "Ahoy" in texts
    for stage, split in (("sft", "train"), ("mid", "test")):
        sets = default_mixture(stage, dataset="tinyworld", size=200, files=[mine], split=split)[0].sets
        assert [epochs for items, epochs in sets if items.name == "mine.jsonl"] == [1], (stage, split)
    other, _ = default_mixture("sft", dataset="tinyworld", size=200)
    same = {str(c.to_dict()) for c in other} & {str(c.to_dict()) for c in mixture}
    assert len(same) < 60, "fine-tuning must not repeat the conversations of mid-training"


def test_sets_at_hand_are_used_and_the_others_named(offline: Path) -> None:
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    for repo, row in (
        ("local/chat-mix/data", {"messages": chat}),
        ("openai/gsm8k/main", {"question": "1?", "answer": "#### 1"}),
    ):
        folder = offline / "hub" / repo
        folder.mkdir(parents=True)
        for split in ("train", "test"):
            pq.write_table(pa.Table.from_pylist([row]), folder / f"{split}-00000-of-00001.parquet")
    mixture, missing = default_mixture("sft", dataset="debian-english", size=10, network=False)
    assert [items.name for items, _ in mixture.sets] == [
        "ChatMix",
        "GSM8K",
        "TinyWorld",
        "SpellingBee",
        "SimpleSpelling",
    ]
    assert missing == ["SmolTalk", "ARC-Easy", "ARC-Challenge"]
    test, missing_in_test = default_mixture("sft", dataset="debian-english", size=10, network=False, split="test")
    assert missing_in_test == missing
    assert len(test) > 0
    middle, _ = default_mixture("mid", dataset="debian-english", network=False)
    sizes = {items.name: len(items) * epochs for items, epochs in middle.sets}
    # Half as many as there are others: the whole 280,000 would drown them.
    assert sizes == {"ChatMix": 1, "GSM8K": 1, "TinyWorld": 3000, "SpellingBee": 428, "SimpleSpelling": 1072}


def test_unknown_stage(offline: Path) -> None:
    with pytest.raises(UserError, match="rl"):
        default_mixture("rl", dataset="tinyworld")


def test_custom_json_takes_both_shapes(tmp_path: Path) -> None:
    path = tmp_path / "chat.jsonl"
    path.write_text(
        '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n\n'
        '[{"role": "user", "content": "c"}, {"role": "assistant", "content": "\u00e9"}]',
        encoding="utf-8",
    )
    mine = CustomJSON(path)
    assert [c.messages[1].text for c in mine] == ["b", "\u00e9"]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("3", "line 2"),
        ('{"messages": []}', "line 2"),
        ('[{"role": "user", "content": "a"}]', "last message"),
        ('[{"role": "robot", "content": "a"}]', "robot"),
        ('[{"role": "assistant", "content": "a"}, {"role": "user", "content": "a"}]', "line 2"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: str, problem: str) -> None:
    path = tmp_path / "chat.jsonl"
    good = '[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]'
    path.write_text(f"{good}\n{line}\n{good}\n")
    with pytest.raises(UserError, match=problem) as error:
        CustomJSON(path)
    assert "line 2" in str(error.value)


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        CustomJSON(tmp_path / "nowhere.jsonl")
    (tmp_path / "latin.jsonl").write_bytes(b"\xe9")
    with pytest.raises(UserError, match="UTF-8"):
        CustomJSON(tmp_path / "latin.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(UserError, match="no conversation"):
        CustomJSON(tmp_path / "empty.jsonl")


def test_own_conversations_alone(offline: Path) -> None:
    """Nothing in another language comes with them, and a few are seen as often as many."""
    mine = offline / "mine.jsonl"
    rows = [f'[{{"role": "user", "content": "{n}?"}}, {{"role": "assistant", "content": "Grüß"}}]\n' for n in range(20)]
    mine.write_text("".join(rows))
    for stage, dataset in (("mid", "mine"), ("sft", "tinyworld")):
        mixture, missing = default_mixture(stage, dataset=dataset, files=[mine], general=False)
        assert ([items.name for items, _ in mixture.sets], missing) == (["mine.jsonl"], [])
        assert len(mixture) == 400 * 20
        test, _ = default_mixture(stage, dataset=dataset, files=[mine], general=False, split="test")
        assert len(test) == 20
    assert [passes_alone(n) for n in (1, 20, 3000, 100_000)] == [400, 400, 4, 2]
    with pytest.raises(UserError, match="no conversation"):
        default_mixture("mid", files=[], general=False)
