"""Tasks that read Hub parquet: on small files in its schemas, and on the data pack where it is present."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanochat.console import UserError
from nanochat.tasks import ARC, GSM8K, MMLU, ChatMix, SmolTalk, Task, open_task
from nanochat.tasks.gsm8k import tool_parts

PACK = Path(__file__).parents[2] / "../shared/data/hub"


def write(root: Path, path: str, rows: list[dict[str, Any]]) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), root / path)


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    monkeypatch.setenv("NANOCHAT_HUB_DIR", str(tmp_path / "hub"))
    (tmp_path / "hub").mkdir()
    return tmp_path / "hub"


def test_arc(mirror: Path) -> None:
    row = {
        "id": "x1",
        "question": "Which is wet?",
        "choices": {"text": ["sand", "rain", "wood"], "label": ["1", "2", "3"]},
        "answerKey": "2",
    }
    write(mirror, "allenai/ai2_arc/ARC-Easy/test-00000-of-00001.parquet", [row])
    task = ARC("Easy")
    assert task.name == "ARC-Easy"
    assert len(task) == 1
    assert task.letters(0) == ("1", "2", "3")
    assert "- rain=2\n" in task[0].messages[0].text
    assert task[0].messages[1].text == "2"
    assert task.grade(0, "2") == {"right": True}
    assert task.grade(0, "1") == {"right": False}


def test_mmlu_train_is_nested(mirror: Path) -> None:
    row = {"question": "2 + 2?", "subject": "algebra", "choices": ["3", "4", "5", "6"], "answer": 1}
    write(mirror, "cais/mmlu/all/test-00000-of-00001.parquet", [row])
    write(mirror, "cais/mmlu/auxiliary_train/train-00000-of-00001.parquet", [{"train": {**row, "subject": ""}}])
    assert MMLU().grade(0, "B") == {"right": True, "algebra": True}
    assert MMLU("train").grade(0, "A") == {"right": False}
    assert MMLU("train")[0].messages == MMLU()[0].messages


def test_gsm8k(mirror: Path) -> None:
    answer = "She sold 48/2 = <<48/2=24>>24 clips.\nIn all 1,000+24 = <<1000+24=1024>>1,024.\n#### 1,024"
    write(mirror, "openai/gsm8k/main/test-00000-of-00001.parquet", [{"question": "How many?", "answer": answer}])
    task = GSM8K()
    parts = task[0].messages[-1].parts
    assert [part.type for part in parts] == ["text", "python", "python_output"] * 2 + ["text"]
    assert (parts[1].text, parts[2].text) == ("48/2", "24")
    assert task.grade(0, task[0].messages[-1].text) == {"right": True}
    assert task.grade(0, "The answer is 1024.") == {"right": True}
    assert task.grade(0, "#### 24") == {"right": False} == task.grade(0, "I don't know")


def test_tool_parts_without_calls() -> None:
    assert tool_parts("plain") == [{"type": "text", "text": "plain"}]


def test_chats(mirror: Path) -> None:
    talk = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    talk.append({"role": "assistant", "content": "Hello"})
    write(
        mirror,
        "HuggingFaceTB/smol-smoltalk/data/train-00000-of-00002.parquet",
        [{"messages": talk, "source": "a"}],
    )
    write(
        mirror,
        "HuggingFaceTB/smol-smoltalk/data/train-00001-of-00002.parquet",
        [{"messages": talk[1:], "source": "a"}],
    )
    task = SmolTalk("train")
    assert len(task) == 2
    assert len(task[0].messages) == 3
    assert len(task[1].messages) == 2
    assert len(SmolTalk("train", size=1)) == 1
    with pytest.raises(UserError):
        ChatMix("train")


def test_a_damaged_file_is_named(mirror: Path) -> None:
    path = mirror / "openai/gsm8k/main/test-00000-of-00001.parquet"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"nothing")
    with pytest.raises(UserError, match="openai/gsm8k"):
        GSM8K()
    write(mirror, "openai/gsm8k/main/test-00000-of-00001.parquet", [{"question": "How many?"}])
    with pytest.raises(UserError, match="answer"):
        GSM8K()


@pytest.mark.skipif(not PACK.is_dir(), reason="the data pack is not here")
@pytest.mark.parametrize("name", ["ARC-Easy", "ARC-Challenge", "MMLU", "GSM8K"])
def test_real_files(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    monkeypatch.setenv("NANOCHAT_HUB_DIR", str(PACK.resolve()))
    task: Task = open_task(name)
    for i in range(0, len(task), 7):
        answer = task[i].messages[-1].text
        assert next(iter(task.grade(i, answer).values())), (i, answer)
