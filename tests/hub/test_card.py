"""The model card: what it says, that the Hub's client takes its metadata, and that nothing in it can break out."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard, constants
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from nanochat import checkpoint
from nanochat.checkpoint.folder import REQUIRED
from nanochat.hub.card import BY_US, is_ours, write_card

RATES = {"matrix": 0.01, "embedding": 0.2, "head": 0.005, "weight_decay": 0.0, "scalar": 0.2}
HOSTILE = (
    "</td><script>alert(1)</script>",
    "x\n---\nlicense: evil",
    "a|b `code` [here](http://evil.example) ![i](http://evil.example/x.png)",
    "*/ --> <!-- \u202egnp.exe \x1b[2J \x00",
    "# Heading",
    "null",
    "www.evil.example http://evil.example me@evil.example",
    "\ud800 half",
    "&lt;b&gt; \\",
    "{{ jinja }} {% raw %}",
)


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    return tmp_path


def save(base: Path, stage: str, tag: str, state: dict[str, Any] | None, config: Any = None, weights: str = "") -> Path:
    """A checkpoint at step 10 that has everything but a usable model."""
    with checkpoint.create(stage, tag, 10) as folder:
        (folder / "tokenizer").mkdir()
        for name in REQUIRED:
            (folder / name).write_text(json.dumps(config or {}) if name == "config.json" else weights + name)
        if state is not None:
            (folder / "train_state.json").write_text(json.dumps(state))
    return checkpoint.steps(stage, tag)[10]


def record(base: Path, run: str, *rows: dict[str, Any]) -> None:
    path = base / "runs" / run / "metrics.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"version": 1, "time": 1.0, **row}) + "\n" for row in rows))


def a_run(base: Path, stage: str, tag: str, used: dict[str, Any], **more: Any) -> str:
    """A checkpoint and the metrics of its training; returns the weights' hash."""
    state = {"stage": stage, "tag": tag, "step": 10, "tokens": 5000, "seconds": 7200.0, "batch_tokens": 500,
             "rates": RATES, "settings": used, **more}  # fmt: skip
    folder = save(base, stage, tag, state, {"depth": 4, "arch": "modern", "vocab_size": 2048}, weights=stage + tag)
    told = {**used, "mixture": "", "rates": RATES, "machine": "Some <CPU>", "ranks": 2, "price_per_hour": 3.0}
    record(
        base,
        f"{stage}-{tag}",
        {"kind": "settings", **told},
        {"kind": "step", "step": 10, "tokens": 5000},
        {"kind": "eval", "step": 10, "val_bpb": 0.75},
    )
    return checkpoint.read_manifest(folder).hash


def evaluate(base: Path, stage: str, tag: str, weights: str, tasks: Any, **more: Any) -> None:
    row = {"kind": "eval", "command": "chat_eval", "checkpoint": {"hash": weights, "path": "/home/jane/secret"}}
    record(base, f"{stage}-{tag}/chat_eval", {**row, "tasks": tasks, **more})


def score(accuracy: Any = 0.5, n: Any = 100) -> dict[str, Any]:
    return {"accuracy": accuracy, "n": n, "ci95": [0.4, 0.6]}


def rendered(text: str) -> list[Any]:
    """All tokens of the card's Markdown, as the Hub shows it (HTML, tables and bare links allowed)."""
    body = text.split("\n---\n", 1)[1]
    found = []
    for token in MarkdownIt("gfm-like", {"html": True, "linkify": False}).parse(body):
        found += [token, *(token.children or [])]
    return found


def require_harmless(text: str) -> None:
    """No HTML but our mark, no link or picture but to the Hub, no heading that is not ours."""
    tokens = rendered(text)
    html = [t.content for t in tokens if t.type in ("html_block", "html_inline")]
    assert [h.strip() for h in html] == [line for line in text.splitlines() if line.startswith(BY_US)]
    for token in tokens:
        assert token.type != "image"
        if token.type == "link_open":
            assert str(token.attrs["href"]).startswith("https://huggingface.co/")
    headings = [tokens[i + 1].content for i, t in enumerate(tokens) if t.type == "heading_open" and t.tag == "h2"]
    known = ["Results", "Settings", "Data", "Hardware and cost", "How to run it", "Limits"]
    assert headings == [name for name in known if name in headings]


def test_says_what_was_recorded(base: Path) -> None:
    parent = a_run(base, "base", "d4", {"seed": 7}, dataset="climbmix")
    evaluate(base, "base", "d4", parent, {"hellaswag": score()}, core=0.2123, core_ci95=[0.2, 0.22])
    mixture = "SmolTalk 9,000, MMLU 100 x 3, diary-of-jane.jsonl 40 x 2"
    weights = a_run(base, "mid", "d4", {"parent": parent, "mixture": mixture}, dataset="climbmix")
    evaluate(base, "mid", "d4", weights, {"ARC-Easy": score(0.61, 2376)})
    text = write_card("mid", "d4", repo="jane/d4", inside="mid/d4")
    data = ModelCard(text).data
    assert data.datasets == ["HuggingFaceTB/smol-smoltalk", "cais/mmlu", "karpathy/climbmix-400b-shuffle"]
    assert {(r.dataset_name, r.metric_value) for r in data.eval_results} >= {("CORE (base)", 0.2123)}
    assert "| CORE | 0.2123 (0.200 to 0.220) |" in text
    assert "0.6100 (0.400 to 0.600, n 2,376)" in text
    assert "hellaswag" not in text  # it is a part of CORE
    assert "CC BY-NC 4.0" in text
    assert "seed=7" in text
    assert "$6.00" in text and "$12.00" in text
    assert "2 x Some &lt;CPU&gt;" in text
    assert "pull_from_hf --repo-id jane/d4 --repo-path mid/d4 --stage mid --target-tag d4" in text
    for secret in ("diary", "/home", str(base)):
        assert secret not in text
    require_harmless(text)


def test_says_nothing_of_another_run_of_the_tag(base: Path) -> None:
    parent = a_run(base, "base", "d4", {"seed": 7})
    weights = a_run(base, "mid", "d4", {"parent": parent})
    evaluate(base, "mid", "d4", weights, {"GSM8K": score(0.3333)})
    assert "0.3333" in write_card("mid", "d4")
    old = save(base, "mid", "d4", {"settings": {"parent": "0" * 16}, "rates": RATES, "tokens": 1}, weights="other")
    text = write_card("mid", "d4", old)
    assert "0.3333" not in text  # measured on other weights
    assert "BASE" not in text and "0.7500" not in text  # neither its base nor its metrics are this model's
    assert "from nothing" not in text


@pytest.mark.parametrize("state", [None, {}, {"settings": 3, "rates": [], "seconds": "x", "parent": 5}])
def test_says_less_when_less_is_known(base: Path, state: dict[str, Any] | None) -> None:
    save(base, "rl", "imported", state)
    text = write_card("rl", "imported")
    assert ModelCard(text).data.to_dict()["license"] == "unknown"
    assert "## Results" not in text and "## Data" not in text and "## Hardware" not in text
    require_harmless(text)
    require_harmless(write_card("base", "nowhere"))


def test_where_an_imported_model_came_from(base: Path) -> None:
    save(base, "sft", "d32", {"parent": "hf://karpathy/nanochat-d32"})
    assert ModelCard(write_card("sft", "d32")).data.base_model == "karpathy/nanochat-d32"
    save(base, "sft", "mine", {"parent": "/home/jane/d32"})
    assert ModelCard(write_card("sft", "mine")).data.base_model is None


def test_knows_its_own_cards(base: Path) -> None:
    assert is_ours(write_card("sft", "d4"))
    assert not is_ours("# My model\n\nWritten by me.")


@pytest.mark.parametrize("made", ["push", "backup", "transformers", "remote code", "mlx"])
def test_commands_hold_no_hostile_name(base: Path, made: Any) -> None:
    for bad in ("a/b; rm -rf ~", "a/b\nrm", "x", "https://user:secret@host/x", "a/b`c`", 's3://b/$(x)"', "../../x"):
        text = write_card("sft", "d4", made=made, repo=bad, inside=bad)
        for token in rendered(text):
            if token.type == "fence":
                assert not set(token.content) & set(";`$~"), bad
                assert "secret" not in token.content and ".." not in token.content
        assert "OWNER/NAME" in text
        require_harmless(text)
    for bad in HOSTILE:
        text = write_card("sft", bad, made=made)
        require_harmless(text)
        assert not metadata_problem(text)


TEXT = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=40))
NUMBER = st.one_of(st.floats(0, 1), st.floats(), st.integers(), st.none(), TEXT, st.just([1]))
SCORES = st.dictionaries(TEXT, st.fixed_dictionaries({"accuracy": NUMBER, "n": NUMBER, "ci95": NUMBER}), max_size=4)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tasks=SCORES, core=NUMBER, machine=TEXT, dataset=TEXT, mixture=TEXT, price=NUMBER, seed=NUMBER)
def test_nothing_breaks_out(
    base: Path, tasks: Any, core: Any, machine: str, dataset: str, mixture: str, price: Any, seed: Any
) -> None:
    used = {"mixture": mixture, "seed": seed, "parent": machine}
    state = {"step": 10, "tokens": 5, "seconds": 9.0, "rates": RATES, "settings": used, "dataset": dataset}
    folder = save(base, "sft", "d4", state, {"arch": machine, "depth": price})
    told = {**used, "machine": machine, "rates": RATES, "price_per_hour": price, "ranks": core}
    record(base, "sft-d4", {"kind": "settings", **told}, {"kind": "step", "step": 10, "tokens": 5})
    evaluate(base, "sft", "d4", checkpoint.read_manifest(folder).hash, tasks, core=core, core_ci95=[core, core])
    text = write_card("sft", "d4", folder, repo=machine, base_model=machine)
    require_harmless(text)
    assert text.isprintable() or all(c.isprintable() or c == "\n" for c in text)
    card = ModelCard(text)
    problem = metadata_problem(str(card))
    assert not problem, problem


def metadata_problem(content: str) -> str:
    """What the Hub would refuse, by the rules that it documents for a model's metadata; "" if nothing."""
    data = yaml.safe_load(content.split("---\n")[1])
    for key in ("license", "library_name", "pipeline_tag"):
        if not isinstance(data.get(key), str):
            return f"{key} must be a string"
    for key in ("tags", "language", "datasets"):
        if not all(isinstance(item, str) and item for item in data.get(key, [])):
            return f"{key} must be strings"
    for model in data.get("model-index", []):
        if not isinstance(model["name"], str) or not model["name"]:
            return "a model needs a name"
        for result in model["results"]:
            named = [result["task"]["type"], result["dataset"]["type"], result["dataset"]["name"]]
            named += [metric["type"] for metric in result["metrics"]]
            if not all(isinstance(name, str) and name for name in named):
                return "a result needs types and names"
            if not all(isinstance(metric["value"], int | float) for metric in result["metrics"]):
                return "a metric needs a value"
    return ""


@pytest.fixture
def validator(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """The Hub's route that validates a card; yields what it was asked."""
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append({"path": self.path, **body})
            problem = metadata_problem(body["content"]).encode()
            self.send_response(400 if problem else 200)
            self.send_header("Content-Length", str(len(problem)))
            self.end_headers()
            self.wfile.write(problem)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield asked
    server.shutdown()
    server.server_close()
    thread.join()


def test_the_clients_own_validation_accepts_it(base: Path, validator: list[dict[str, Any]]) -> None:
    weights = a_run(base, "sft", "d4", {}, dataset="tinyworld")
    evaluate(base, "sft", "d4", weights, {name: score() for name in ("GSM8K", "ARC-Easy", *HOSTILE)}, chatcore=0.1)
    for made in ("push", "backup", "transformers", "remote code", "mlx"):
        ModelCard(write_card("sft", "d4", made=made)).validate()
    assert [one["path"] for one in validator] == ["/api/validate-yaml"] * 5
    with pytest.raises(ValueError, match="license must be a string"):
        ModelCard("---\nlicense: 3\n---\n").validate()
