from __future__ import annotations

import dataclasses
import hashlib
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nanochat.commands import dataset, tok_eval, tok_train
from nanochat.console import UserError
from nanochat.metrics import last, read_metrics
from nanochat.paths import runs_dir, tokenizer_dir
from nanochat.tokenizer import Tokenizer, compression, split_pattern


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    monkeypatch.delenv("NANOCHAT_HUB_DIR", raising=False)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "tiktoken"))
    return tmp_path / "base"


@pytest.fixture
def corpus(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghij", k=rng.randint(2, 7))) for _ in range(300)]
    rows = [{"text": " ".join(rng.choices(words, k=40)) + f" {rng.random()}"} for _ in range(100)]
    (tmp_path / "words.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    dataset.run_import(dataset.Import(str(tmp_path / "words.jsonl")))
    assert "dataset words: 98 documents" in capsys.readouterr().out
    return "words"


def summary(run: str) -> dict[str, Any]:
    record = last(read_metrics(runs_dir(run) / "metrics.jsonl"), "summary")
    assert record is not None
    return record


def test_from_text_to_a_measured_tokenizer(corpus: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert summary("dataset")["val_docs"] == 2
    tok_train.run(tok_train.Config(dataset=corpus, vocab_size=500))
    assert "tok_train: 500 tokens" in capsys.readouterr().out
    tokenizer = Tokenizer.load(tokenizer_dir())
    assert tokenizer.vocab_size == 500
    assert tokenizer.pattern == split_pattern(1)
    record = summary("tok_train")
    assert record["hash"] == tokenizer.hash
    assert record["seconds"] > 0

    tok_eval.run(tok_eval.Config(json=tmp_path / "out.json"))
    printed = capsys.readouterr().out
    assert printed.count("not compared with GPT-2, ") == printed.count("not compared with GPT-4, ") == 1
    found = json.loads((tmp_path / "out.json").read_text())
    assert (found["command"], found["dataset"], found["peers"]) == ("tok_eval", "words", {})
    texts = found["texts"]
    assert {"news", "prose", "code", "math", "korean", "train", "val"} <= set(texts)
    assert texts["val"]["bytes_per_token"] > texts["hindi"]["bytes_per_token"] == 1.0
    assert all(
        row["bytes_per_token"] == pytest.approx(row["bytes"] / row["tokens"], abs=1e-4) for row in texts.values()
    )
    assert summary("tok_eval")["texts"] == texts


@pytest.mark.parametrize(("digits", "vocab_size", "expected"), [("auto", 400, 1), ("2", 400, 2), ("3", 400, 3)])
def test_digits(corpus: str, digits: Any, vocab_size: int, expected: int) -> None:
    tok_train.run(tok_train.Config(dataset=corpus, vocab_size=vocab_size, digits=digits))
    assert Tokenizer.load(tokenizer_dir()).pattern == split_pattern(expected)


def test_how_much_is_read(corpus: str) -> None:
    tok_train.run(tok_train.Config(dataset=corpus, vocab_size=270, max_chars=2500, doc_cap=30))
    assert summary("tok_train")["characters"] == 2500
    tok_train.run(tok_train.Config(dataset=corpus, vocab_size=270, doc_cap=10))
    assert summary("tok_train")["characters"] == 98 * 10


def test_what_the_text_supports_is_taken_and_said(corpus: str, capsys: pytest.CaptureFixture[str]) -> None:
    tok_train.run(tok_train.Config(dataset=corpus, vocab_size=20_000))
    found = Tokenizer.load(tokenizer_dir())
    seen = capsys.readouterr()
    assert f"the text of words supports only {found.vocab_size:,} tokens, not 20,000: taking those" in seen.err
    assert f"tok_train: {found.vocab_size:,} tokens" in seen.out
    assert summary("tok_train")["vocab_size"] == found.vocab_size
    assert found.pattern == split_pattern(1)  # as for one that was asked for with that few tokens
    before = found.hash
    tok_train.run(tok_train.Config(dataset=corpus, vocab_size=found.vocab_size))
    assert Tokenizer.load(tokenizer_dir()).hash == before
    assert not capsys.readouterr().err
    tok_train.run(tok_train.Config(dataset=corpus, vocab_size=20_000, digits="2"))
    assert Tokenizer.load(tokenizer_dir()).pattern == split_pattern(2)


def test_bad_settings(corpus: str) -> None:
    with pytest.raises(UserError, match="--vocab_size=265"):
        tok_train.run(tok_train.Config(dataset=corpus, vocab_size=264))
    with pytest.raises(UserError, match="at least 1"):
        tok_train.run(tok_train.Config(dataset=corpus, max_chars=0))
    with pytest.raises(UserError, match="no prepared dataset 'nope'"):
        tok_train.run(tok_train.Config(dataset="nope"))
    with pytest.raises(UserError, match="no tokenizer"):
        tok_eval.run(tok_eval.Config())
    with pytest.raises(UserError, match="no file or folder"):
        dataset.run_import(dataset.Import("tinyworld"))


@pytest.mark.parametrize("place", ["cache", "package"])
def test_a_peer_whose_ranks_are_here(
    corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    tok_train.run(tok_train.Config(dataset=corpus, vocab_size=300))
    ranks = (tokenizer_dir() / "ranks.tiktoken").read_bytes()
    gpt4 = compression.PEERS["GPT-4"]
    if place == "cache":
        path = tmp_path / "tiktoken" / hashlib.sha1((compression.BLOBS + gpt4.file).encode()).hexdigest()
    else:
        path = tmp_path / "packages" / gpt4.package / gpt4.inside
        monkeypatch.syspath_prepend(tmp_path / "packages")
        (tmp_path / "packages" / gpt4.package).mkdir(parents=True)
        (tmp_path / "packages" / gpt4.package / "__init__.py").write_text("raise ImportError")  # never imported
    path.parent.mkdir(parents=True)
    path.write_bytes(ranks)
    assert compression.peer_encoder("GPT-4") is None  # damaged: not the file that its digest says
    digest = hashlib.sha256(ranks).hexdigest()
    monkeypatch.setitem(compression.PEERS, "GPT-4", dataclasses.replace(gpt4, sha256=digest))
    encode = compression.peer_encoder("GPT-4")
    assert encode is not None
    assert compression.measure_compression(encode, ["aé", "b"]).bytes == 4
    tok_eval.run(tok_eval.Config(json=tmp_path / "out.json"))
    assert set(json.loads((tmp_path / "out.json").read_text())["peers"]) == {"GPT-4"}
    printed = capsys.readouterr().out
    assert "GPT-4 tokens" in printed and "1.00 x GPT-4" in printed


@pytest.mark.parametrize(
    ("module", "flags", "code", "stderr"),
    [
        ("nanochat.dataset", ["--dataset", "nope"], 2, "error: unknown dataset 'nope'"),
        ("nanochat.dataset", ["import", "nothing.txt"], 2, "error: there is no file or folder nothing.txt"),
        ("scripts.tok_train", ["--vocab_size=100"], 2, "error: a vocabulary of 100 is too small"),
        ("scripts.tok_eval", [], 2, "error: there is no tokenizer at"),
        ("scripts.tok_train", ["--help"], 0, ""),
    ],
)
def test_as_commands(base: Path, module: str, flags: list[str], code: int, stderr: str) -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", module, *flags],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code
    assert done.stderr.startswith(stderr)
    assert done.stderr.count("\n") == (1 if stderr else 0)


@pytest.mark.parametrize("module", ["dataset", "tok_train", "tok_eval"])
def test_help_loads_nothing_heavy(module: str) -> None:
    code = (
        f"import sys; sys.argv = ['x', '--help']; from nanochat.commands.{module} import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'pyarrow', 'tokenizers', 'tiktoken', 'huggingface_hub'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
