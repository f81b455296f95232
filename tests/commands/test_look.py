"""nanochat look on checkpoints made here."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from nanochat import checkpoint
from nanochat.commands import look
from nanochat.console import UserError
from nanochat.inference import Request, load_engine
from nanochat.model import GPT, ModelConfig
from nanochat.model.weights import save_weights
from nanochat.tokenizer import Tokenizer, train_bpe

TEXT = "how many letters?"


@pytest.fixture(scope="module", autouse=True)
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Three steps of a base model, the last of them damaged, and an sft model."""
    tokenizer = Tokenizer(train_bpe(["how many letters are in the word strawberry?"] * 3, 280))
    base = tmp_path_factory.mktemp("base")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_BASE_DIR", str(base))
        patch.setenv("NANOCHAT_DTYPE", "float32")
        for stage, step in (("base", 5), ("base", 10), ("base", 15), ("sft", 3)):
            model = GPT(ModelConfig(2, 16, 2, 2, tokenizer.vocab_size, 64, "modern", 100000.0))
            g = torch.Generator().manual_seed(step)
            with torch.no_grad():
                for weight in model.parameters():
                    weight.copy_(torch.randn(weight.shape, generator=g) * 0.5)
            with checkpoint.create(stage, "d2", step) as folder:
                save_weights(model.config, model.state_dict(), folder)
                tokenizer.save(folder / "tokenizer")
        damaged = base / "base_checkpoints/d2/step_000015/model.safetensors"
        damaged.write_bytes(damaged.read_bytes()[:-9])
        yield base


def looked(capsys: pytest.CaptureFixture[str], **settings: Any) -> dict[str, Any]:
    look.run(look.Config(**{"text": (TEXT,), "source": "base", "json": (), "device": "cpu", **settings}))
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_everything_of_the_newest_whole_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    found = looked(capsys)
    engine, _ = load_engine("base", step=10, device="cpu")
    ids = [engine.tokenizer.bos, *engine.tokenizer.encode(TEXT)]
    assert found["checkpoint"] == {"stage": "base", "tag": "d2", "step": 10}
    assert (found["version"], found["command"], found["answer"]) == (1, "look", None)
    assert [token["id"] for token in found["tokens"]] == ids
    with torch.no_grad():
        row = engine.model(torch.tensor([ids]))[0, -2, : engine.tokenizer.vocab_size].softmax(-1)
    last = found["chosen"]["layers"][-1]
    assert found["chosen"]["token"] == len(ids) - 1
    assert last["probability"] == pytest.approx(row[ids[-1]].item(), rel=1e-4)
    assert found["tokens"][-1]["probability"] == pytest.approx(last["probability"], rel=1e-4)


def test_a_question_and_its_answer(capsys: pytest.CaptureFixture[str]) -> None:
    found = looked(capsys, source="sft", chat=True, max_tokens=6, token="next")
    engine, _ = load_engine("sft", device="cpu")
    ids = [token["id"] for token in found["tokens"]]
    question, answer = ids[: found["answer"]], ids[found["answer"] :]
    name = engine.tokenizer.decode(question)
    assert name == f"<|bos|><|user_start|>{TEXT}<|user_end|><|assistant_start|>"
    (completion,) = engine.generate([Request(question, 6, temperature=0)])
    assert answer == completion.ids + ([] if completion.stop is None else [completion.stop])
    assert found["chosen"]["token"] == len(ids) and found["chosen"]["id"] is None


def test_every_checkpoint_but_the_damaged_one(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "looks.json"
    look.run(look.Config((TEXT,), "base", steps="all", json=(str(file),), device="cpu"))
    said = capsys.readouterr()
    assert said.out == f"Looked at 2 checkpoints: {file}\n"
    assert said.err.startswith("step 15 is left out: ") and said.err.count("\n") == 1
    entries = json.loads(file.read_text())["checkpoints"]
    assert [entry["checkpoint"]["step"] for entry in entries] == [5, 10]
    for entry in entries:
        alone = looked(capsys, step=entry["checkpoint"]["step"])
        assert {key: alone[key] for key in entry} == entry
    assert [entry["checkpoint"]["step"] for entry in looked(capsys, steps="10, 5")["checkpoints"]] == [5, 10]


def test_a_table_that_does_not_steer_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    look.run(look.Config(("how [red]many\x1b[2J\x9b\u202e 🙂",), "base", token=2, device="cpu"))
    out = capsys.readouterr().out
    assert not [c for c in out if not c.isprintable() and c != "\n"]
    assert "base/d2 step 10" in out and "2 <" in out and "(next)" in out
    assert "['" in out and "\\x1b" in out and "\\xc2" in out and "logit lens" in out


@pytest.mark.parametrize("columns", [60, 73, 80])
def test_a_line_of_the_table_ends_after_an_entry(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    look.run(look.Config((TEXT,), "base", device="cpu"))
    layers = capsys.readouterr().out.split("\nToken ")[1].split("\n", 1)[1]
    assert "' " in layers and not re.search(r"'(  |$)", layers, re.MULTILINE), layers


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"text": ()}, "there is no text"),
        ({"text": ("how " * 90,)}, "the model sees 64"),
        ({"text": ("how " * 90,), "chat": True}, "the model sees 64"),
        ({"token": 0}, "nothing comes before the first"),
        ({"token": 99}, "there are"),
        ({"step": 4}, "has no step 4"),
        ({"steps": "5,7"}, "has no step 7"),
        ({"steps": "some"}, "'some' are no steps"),
        ({"steps": "15"}, "model.safetensors has"),
        ({"steps": "all", "step": 5}, "both given"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"model_tag": "d9"}, "no base checkpoint with the tag 'd9'"),
        ({"json": ("a", "b")}, "several files"),
        ({"json": ("no/such/folder.json",)}, "does not exist"),
    ],
    ids=lambda value: value.split()[0] if isinstance(value, str) else "",
)
def test_what_cannot_be_looked_at(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        look.run(look.Config(**{"text": (TEXT,), "source": "base", "device": "cpu", **settings}))


def test_flags_in_any_order() -> None:
    program = (
        "import sys, tyro; from nanochat.commands import look\n"
        "for line in (['hi', '--json'], ['--json', 'hi'], ['--json', '-', 'hi'], ['hi', '--json', 'f'],\n"
        "             ['--json', 'f', 'hi'], ['-i', 'base', 'hi', 'you', '--token', 'next']):\n"
        "    words, file = look._text_and_file(tyro.cli(look.Config, args=line))\n"
        "    print(' '.join(words), file)\n"
        "assert 'torch' not in sys.modules\n"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True).stdout
    assert out.splitlines() == ["hi None", "hi None", "hi None", "hi f", "hi f", "hi you None"]
