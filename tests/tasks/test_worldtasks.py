"""TinyWorld, SpellingBee and SimpleSpelling as tasks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nanochat.console import UserError
from nanochat.paths import data_dir, write_json
from nanochat.synthetic.tinyworld import spelling
from nanochat.tasks import TASKS, SimpleSpelling, SpellingBee, Task, TinyWorld, open_task


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    monkeypatch.delenv("NANOCHAT_HUB_DIR", raising=False)


@pytest.mark.parametrize("task", [TinyWorld(), SpellingBee(), SimpleSpelling()], ids=lambda task: task.name)
def test_right_answers_are_right_and_empty_ones_are_not(task: Task) -> None:
    assert isinstance(task, Task)
    for i in range(len(task)):
        conversation = task[i]
        assert conversation.messages[-1].role == "assistant"
        assert next(iter(task.grade(i, conversation.messages[-1].text).values()))
        assert not any(task.grade(i, "").values())
    with pytest.raises(IndexError):
        task[len(task)]


def test_tiny_world_reads_the_seed_of_the_prepared_world() -> None:
    first = TinyWorld()
    write_json(data_dir("tinyworld") / "world.json", {"seed": 5})
    assert TinyWorld().world.seed == 5
    assert TinyWorld(world_seed=0)[0] == first[0] != TinyWorld()[0]
    (data_dir("tinyworld") / "world.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        TinyWorld()


def test_baseline_is_what_the_commonest_answer_scores() -> None:
    task = TinyWorld()
    baseline = task.baseline()
    assert baseline["unknown"] == 1.0
    assert 0 < baseline["identity"] < 0.2
    assert max(baseline[name] for name in ("unseen_phrasing", "never_asked", "follow_up")) < 0.05
    assert baseline["known_refused"] == 0.0


def test_training_conversations_have_no_grades() -> None:
    task = TinyWorld("train", size=10)
    assert len(task) == 10
    assert task[3] == TinyWorld("train", size=5)[3]
    assert task[3] != TinyWorld("train", size=5, seed=1)[3]
    with pytest.raises(UserError):
        task.grade(0, "yes")


def test_examples_are_held_out_questions() -> None:
    task = TinyWorld()
    asked = {question.messages[-1]["content"] for question in task.questions or ()}
    assert len(task.examples()) == 3
    assert set(task.examples()) <= asked


def test_spelling_bee_grades_number_and_letters_apart() -> None:
    task = SpellingBee()
    answer = task[0].messages[-1].text
    word = spelling.held_out_words()[0]
    i = next(i for i in range(len(task)) if f" {word} " in task[i].messages[-1].text)
    answer = task[i].messages[-1].text
    assert task.grade(i, answer) == {"number": True, "number_and_spelling": True}
    letters = " ".join(word)
    assert task.grade(i, answer.replace(letters, letters[2:])) == {
        "number": True,
        "number_and_spelling": False,
    }
    assert task.grade(i, answer + " No, 17.") == {"number": False, "number_and_spelling": False}
    assert 0.2 < task.baseline()["number"] < 0.7


def test_spelling_test_words_are_held_out_and_some_questions_too() -> None:
    task = SpellingBee()
    words = {task._item(i)[0] for i in range(len(task))}
    assert words == set(spelling.held_out_words())
    prompts = [task[i].messages[0].text for i in range(len(task))]
    assert any(prompt.startswith("Tell me how many") for prompt in prompts)
    trained = [SpellingBee("train", size=3000)[i].messages[0].text.lower() for i in range(3000)]
    assert not any(set(prompt.strip("?.").split()) & words for prompt in trained)
    assert not any(prompt.startswith("tell me how many") for prompt in trained)


def test_tool_calls_spell_the_word_with_its_leading_space() -> None:
    parts = SpellingBee("train", size=5)[2].messages[-1].parts
    assert [part.type for part in parts] == ["text", "python", "python_output", "text"]
    assert parts[1].text.startswith('" ')


@pytest.mark.parametrize("task", [SpellingBee(), SpellingBee("train", 3)])
def test_a_number_too_long_for_python_is_wrong(task: SpellingBee) -> None:
    assert task.grade(0, f"There are {'9' * 5000}") == {"number": False, "number_and_spelling": False}
    right = next(n for n in range(20) if task.grade(0, f"There are {n}.")["number"])
    assert task.grade(0, f"There are 0{right}.")["number"]


def test_so_it_is_in_the_tiny_world() -> None:
    task = TinyWorld(world_seed=0)
    numbered = next(i for i in range(len(task)) if any(all(task.grade(i, str(n)).values()) for n in range(1, 60)))
    assert not any(task.grade(numbered, "9" * 5000).values())


def test_open_task() -> None:
    assert open_task("TinyWorld").name == "TinyWorld"
    assert {"ARC-Easy", "ARC-Challenge", "MMLU", "GSM8K", "SpellingBee"} <= set(TASKS)
    with pytest.raises(UserError, match="unknown task 'tinyworld'"):
        open_task("tinyworld")


def test_importing_tasks_loads_neither_torch_nor_pyarrow() -> None:
    code = "import sys, nanochat.tasks; print({'torch', 'pyarrow', 'tokenizers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
