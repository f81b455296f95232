"""A bot in another language, from one's own text and chats: nothing in English gets in between."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tyro

from nanochat.console import UserError
from nanochat.eval.base import LONGEST_OPENING, opening
from nanochat.pipeline import SpeedrunConfig
from nanochat.pipeline.progress import StageLog, fingerprints
from nanochat.pipeline.settings import general, resolve
from nanochat.tasks import CustomJSON, beginnings
from nanochat.tokenizer import Tokenizer, train_bpe
from nanochat.train import ChatConfig
from nanochat.train.config import check_config
from nanochat.train.quiz import questions
from tests.pipeline.other_languages import GERMAN, GREEK, german, greek, write_chats, write_german

ROOT = Path(__file__).parents[2]


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    monkeypatch.setenv("NANOCHAT_HUB_DIR", str(tmp_path / "mirror"))
    monkeypatch.delenv("NPROC_PER_NODE", raising=False)
    return tmp_path / "base"


def test_own_text_and_own_chats_are_all_that_is_learnt(base: Path, tmp_path: Path) -> None:
    text = tmp_path / "deutsch"
    text.mkdir()
    (text / "a.txt").write_text("Grüß dich!")
    chats = write_chats(tmp_path / "chats.jsonl", GERMAN)
    own = SpeedrunConfig(dataset=str(text), data=(str(chats),), depth=1, time_budget="1m")
    alone = {stage.name: stage for stage in resolve(own, {}).stages}
    for name in ("mid_train", "chat_sft"):
        assert "--no_general" in alone[name].args and str(chats) in alone[name].args
    assert not {"mid_eval", "chat_eval"} & set(alone)  # there is nothing to grade it by
    own.general = "yes"
    both = {stage.name: stage for stage in resolve(own, {}).stages}
    assert "--no_general" not in both["chat_sft"].args and {"mid_eval", "chat_eval"} < set(both)


@pytest.mark.parametrize(
    ("dataset", "data", "asked", "expected"),
    [
        ("auto", ("c.jsonl",), "auto", True),
        ("tinyworld", ("c.jsonl",), "auto", True),
        ("climbmix", ("c.jsonl",), "auto", True),
        ("tinyworld", ("c.jsonl",), "no", False),
        ("text", (), "auto", True),
        ("text", ("c.jsonl",), "auto", False),
        ("text", ("c.jsonl",), "yes", True),
    ],
)
def test_when_general_chats_are_learnt(dataset: str, data: tuple[str, ...], asked: str, expected: bool) -> None:
    assert general(SpeedrunConfig(dataset=dataset, data=data, general=asked)) is expected  # type: ignore[arg-type]


def test_in_the_tiny_world_ones_own_chats_can_be_all(base: Path, tmp_path: Path) -> None:
    chats = write_chats(tmp_path / "chats.jsonl", GERMAN)
    plan = resolve(SpeedrunConfig(dataset="tinyworld", data=(str(chats),), general="no"), {})
    stages = {stage.name: stage for stage in plan.stages}
    for name in ("mid_train", "chat_sft"):
        assert "--no_general" in stages[name].args
        check_config(tyro.cli(ChatConfig, args=["--stage", "sft", *stages[name].args]))


@pytest.mark.parametrize("by", ["this version's defaults", "an earlier version's"])
def test_what_was_begun_with_general_chats_goes_on_so(
    base: Path, tmp_path: Path, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As every version did until now; a new run does not."""
    from nanochat.pipeline.speedrun import _with_general

    text = tmp_path / "deutsch"
    text.mkdir()
    (text / "a.txt").write_text("Grüß dich!")
    data = (str(write_chats(tmp_path / "chats.jsonl", GERMAN)),)
    config = SpeedrunConfig(dataset=str(text), data=data, depth=1, time_budget="1m")
    log = StageLog()
    assert _with_general(config, log) == config
    with_general = replace(config, general="yes")
    before = resolve(with_general, {})
    if by == "an earlier version's":
        before = resolve(replace(with_general, time_budget="2m"), {})
        module = sys.modules[_with_general.__module__]
        monkeypatch.setattr(module, "earlier", lambda asked: before if asked == with_general else None)
    marks = zip(before.stages, fingerprints(before.stages), strict=True)
    log.started["mid_train"] = next(mark for stage, mark in marks if stage.name == "mid_train")
    assert _with_general(config, log) == with_general
    assert _with_general(replace(config, general="no"), log).general == "no"
    log.started["mid_train"] = "another"
    assert _with_general(config, log) == config


def test_nothing_to_learn_is_an_error(base: Path) -> None:
    with pytest.raises(UserError, match="leaves no conversations"):
        resolve(SpeedrunConfig(general="no"), {})


def test_a_training_is_asked_ones_own_questions(base: Path, tmp_path: Path) -> None:
    chats = write_chats(tmp_path / "chats.jsonl", GERMAN)
    tokenizer = Tokenizer(train_bpe([german(random.Random(1), 100)], 400))
    asked = questions("sft", "deutsch", None, tokenizer, [str(chats)])
    answers = dict(GERMAN)
    assert len(asked) == 6
    for one in asked:
        assert one.expected == answers[one.text]
        assert one.right(one.expected) and not one.right("Ja.")


def test_a_few_of_ones_own_questions(tmp_path: Path) -> None:
    pairs = [("", "leer"), ("x" * 300, "lang"), ("zwei\nZeilen", "nein"), *GREEK, GREEK[0]]
    found = beginnings(CustomJSON(write_chats(tmp_path / "chats.jsonl", pairs)).conversations)
    assert [(one.messages[0].text, one.messages[1].text) for one in found] == GREEK


def test_openings_of_text_without_blanks() -> None:
    assert opening("Der Müller öffnet die Tür am Fluss. Es war schön.") == "Der Müller öffnet die Tür am"
    assert opening("ある日、" * 10_000) == "ある日、" * (LONGEST_OPENING // 16)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (german(random.Random(1), 300), " Brötchen"),
        (german(random.Random(1), 300), " süße"),
        (german(random.Random(1), 300), "„Schön"),
        (greek(random.Random(1), 300), " θάλασσα"),
        ("むかしむかし、小さな町に猫がいました。" * 50, "、小さな町に猫がいました"),
        ("كان في المدينة قط صغير. " * 50, " المدينة"),
    ],
)
def test_the_tokenizer_learns_any_script(text: str, word: str) -> None:
    tokenizer = Tokenizer(train_bpe([text], 500))
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode(word)) <= 2
    assert len(text.encode()) / len(tokenizer.encode(text)) > 4


def run(*arguments: str, base: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    variables = {"NANOCHAT_BASE_DIR": str(base), "NANOCHAT_HUB_DIR": str(folder / "mirror")}
    # One thread, and nothing compiled: that takes longer than all the training here.
    variables |= {"OMP_NUM_THREADS": "1", "TORCHDYNAMO_DISABLE": "1", "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
    command = [sys.executable, "-m", "nanochat", *arguments]
    environment = os.environ | variables
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=1500)


def right(answers: str, pairs: list[tuple[str, str]]) -> int:
    found = re.findall(r"  you:      (.*)\n  nanochat: (.*)\n", answers)
    return sum((asked, answer) in pairs for asked, answer in found)


@pytest.mark.slow
def test_a_german_bot(base: Path, tmp_path: Path) -> None:
    write_german(tmp_path / "texte")
    write_chats(tmp_path / "chats.jsonl", GERMAN)
    speedrun = ("speedrun", "--dataset", "texte", "--data", "chats.jsonl", "--depth", "2", "--time-budget", "30s")
    refused = run(*speedrun, base=base, folder=tmp_path)
    assert refused.returncode == 2 and "CP1252" in refused.stderr
    remedy = re.search(r"(mv .*früher\.txt'?) \(and look at it\)", refused.stderr)
    assert remedy
    subprocess.run(["bash", "-c", remedy[1]], check=True, cwd=tmp_path)

    done = run(*speedrun, base=base, folder=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "conversations from chats.jsonl 20 x 400" in done.stdout
    assert "TinyWorld" not in done.stdout and "Spelling" not in done.stdout
    assert right(done.stdout, GERMAN) >= 2, done.stdout[-1500:]  # of the four at the end
    exact = 0
    for asked, answer in GERMAN[:6]:
        told = run("chat_cli", "-p", asked, "-t", "0", "--json", base=base, folder=tmp_path)
        exact += json.loads(told.stdout)["answer"] == answer
    assert exact >= 3

    from nanochat.hub.card import write_card

    card = write_card("sft", "d2")
    assert "- en" not in card.split("---")[1] and "author's own conversations" in card
    assert "TinyWorld" not in card and "invented world" not in card
    report = (base / "report" / "report.md").read_text(encoding="utf-8")
    assert "chats.jsonl 20 x 400" in report and "capital of France" not in report


@pytest.mark.slow
def test_another_script(base: Path, tmp_path: Path) -> None:
    """From the text to a terminal, a look inside and a page, with a model that has hardly learnt."""
    texts = tmp_path / "κείμενα"
    texts.mkdir()
    for place in range(6):
        (texts / f"{place}.txt").write_text(greek(random.Random(place), 300), encoding="utf-8")
    write_chats(tmp_path / "chats.jsonl", GREEK)
    speedrun = ("speedrun", "--dataset", texts.name, "--data", "chats.jsonl", "--depth", "1", "--time-budget", "5s")
    done = run(*speedrun, base=base, folder=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    asked = GREEK[0][0]
    told = run("chat_cli", "-p", asked, "-t", "0", base=base, folder=tmp_path)
    assert re.search(r"[α-ω]", told.stdout) and not re.search(r"[A-Za-z]", told.stdout)
    look = run("look", asked, "-i", "sft", "--json", base=base, folder=tmp_path)
    assert look.returncode == 0, look.stderr
    page = run("export_html", "-i", "sft", "--output", "ηχώ.html", base=base, folder=tmp_path)
    assert page.returncode == 0 and (tmp_path / "ηχώ.html").stat().st_size > 100_000, page.stderr
