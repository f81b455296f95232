"""Checkpoints of upstream become ours: equal logits, the same optimiser, and training goes on."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import close_session, constants
from safetensors.torch import load_file

from nanochat import checkpoint
from nanochat.checkpoint.listing import scan
from nanochat.commands import import_checkpoint as command
from nanochat.console import UserError, run_command
from nanochat.hub import import_checkpoint
from nanochat.metrics import training_file
from nanochat.model import GPT, load, read_config
from nanochat.tokenizer import Tokenizer
from nanochat.train import ChatConfig, RLConfig, train_chat, train_rl
from nanochat.train.chat import rates_after
from nanochat.train.state import read
from tests.corpus.hubserver import HubServer
from tests.hub import upstream_files as theirs

ROOT = Path(__file__).parents[2]
GENERATIONS = (2025, 2026)


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "base"
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(folder))
    monkeypatch.delenv("NANOCHAT_HUB_DIR", raising=False)
    return folder


def stored(tmp_path: Path, model: GPT, **how: Any) -> Path:
    """old/base_checkpoints/d3 with the tokenizer in old/tokenizer, as upstream lays them out."""
    theirs.write_tokenizer(tmp_path / "old" / "tokenizer")
    return theirs.write(tmp_path / "old" / "base_checkpoints" / "d3", model, **how)


def logits(model: GPT) -> torch.Tensor:
    ids = torch.randint(0, theirs.VOCAB, (2, 128), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return model(ids)


@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
@pytest.mark.parametrize("generation", GENERATIONS)
def test_logits_are_equal(base: Path, tmp_path: Path, generation: int, prefix: str) -> None:
    model = theirs.make(generation)
    folder = import_checkpoint(str(stored(tmp_path, model, prefix=prefix)))
    assert folder == checkpoint.find("base", "d3", 20)
    assert (logits(load(folder)) - logits(model)).abs().max() < 1e-6
    assert read_config(folder) == model.config
    assert Tokenizer.load(folder / "tokenizer").ranks == theirs.RANKS
    assert all(t.dtype == torch.float32 for t in load_file(folder / "model.safetensors").values())


@pytest.mark.parametrize("ranks", [1, 2, 5])
@pytest.mark.parametrize("generation", GENERATIONS)
def test_the_optimisers_state_comes_along(base: Path, tmp_path: Path, generation: int, ranks: int) -> None:
    model = theirs.make(generation)
    source = stored(tmp_path, model)
    state = theirs.moments(model)
    theirs.write_optimizer(source, model, state, ranks)
    there = load_file(import_checkpoint(str(source)) / "optimizer.safetensors")
    assert there.keys() == state.keys()
    assert all(torch.equal(there[name], tensor) for name, tensor in state.items())
    assert not (import_checkpoint(str(source), optimizer=False) / "optimizer.safetensors").exists()


def test_training_goes_on_from_each_stage(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_run, base)
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(base))
    common: dict[str, Any] = {
        "device": "cpu",
        "dtype": "float32",
        "compile": "off",
        "eval_every": -1,
        "num_iterations": 2,
    }
    model = theirs.make(2026)
    source = stored(tmp_path, model)
    theirs.write_optimizer(source, model, theirs.moments(model), 2)

    import_checkpoint(str(source))
    chat = {"conversations": 60, "dataset": "tinyworld", "eval_tokens": 256, "total_batch_size": 256, **common}
    after = train_chat(ChatConfig(stage="mid", model_tag="d3", **chat))
    assert (after.step, after.tag) == (2, "d3") and "base_checkpoints/d3" in after.parent
    moved = load(checkpoint.find("mid", "d3"))
    assert 0 < (moved.head.weight - model.head.weight).abs().max() < 0.2  # steps of the right size

    old = theirs.write(tmp_path / "old" / "mid_checkpoints" / "d4", theirs.make(2025))  # without an optimiser
    import_checkpoint(str(old))
    assert train_chat(ChatConfig(stage="sft", model_tag="d4", **chat)).step == 2

    import_checkpoint(str(old), stage="sft", tag="d5")
    rl: dict[str, Any] = {
        "examples_per_step": 2,
        "num_samples": 2,
        "max_new_tokens": 8,
        "eval_examples": 2,
        "eval_samples": 1,
    }
    assert train_rl(RLConfig(model_tag="d5", task="TinyWorld", **rl, **common)).step == 2


@pytest.mark.parametrize("generation", GENERATIONS)
def test_the_rates_are_those_of_a_model_trained_here(base: Path, tmp_path: Path, generation: int) -> None:
    source = str(stored(tmp_path, theirs.make(generation), meta={"total_batch_size": 2**19}))
    states = {stage: read(import_checkpoint(source, stage=stage)) for stage in ("base", "mid", "sft")}
    assert states["base"].rates["matrix"] == pytest.approx(0.02)
    assert states["base"].batch_tokens == 2**19
    pretraining = rates_after(states["base"], 1.0)
    assert rates_after(states["mid"], 1.0) == rates_after(states["sft"], 1.0) == pretraining


def test_stage_tag_and_step(base: Path, tmp_path: Path) -> None:
    model = theirs.make(2025)
    flat = theirs.write_tokenizer(theirs.write(tmp_path / "nanochat-d32", model, meta={"val_loss": 1.2}))
    theirs.write(flat, model, step=7, meta={"loop_state": {}})
    theirs.write(flat, theirs.make(2026), step=1234567, meta={"user_config": {}})  # another generation beside it
    assert import_checkpoint(str(flat), step=20) == checkpoint.find("sft", "nanochat-d32", 20)
    assert import_checkpoint(str(flat), step=7, tag="x") == checkpoint.find("base", "x", 7)
    with pytest.raises(UserError, match="which stage.*--stage"):
        import_checkpoint(str(flat))
    assert read_config(import_checkpoint(str(flat), stage="rl")).modern
    assert checkpoint.steps("rl", "nanochat-d32").keys() == {1234567}
    with pytest.raises(UserError, match="no step 8. Choose one of: 7, 20, 1234567"):
        import_checkpoint(str(flat), step=8)
    (flat / "meta_000007.json").unlink()
    with pytest.raises(UserError, match="no meta_000007.json"):
        import_checkpoint(str(flat), step=7)
    with pytest.raises(UserError, match="no name for a model"):
        import_checkpoint(str(flat), stage="sft", tag="../x")


@pytest.mark.parametrize("name", ["d 3", "d3\n", "-d3", "dé", ".d3", "model_000001.pt"])
def test_odd_names_of_folders(base: Path, tmp_path: Path, name: str) -> None:
    source = theirs.write_tokenizer(theirs.write(tmp_path / "mid_checkpoints" / name, theirs.make(2025)))
    for odd in ("model_1.pt.bak", "model_x.pt", "model_99999999999.pt", "optim_000020.pt.tmp", "model_٣.pt"):
        (source / odd).write_bytes(b"")
    if name != "model_000001.pt":
        with pytest.raises(UserError, match="is no name for a model"):
            import_checkpoint(str(source))
    assert import_checkpoint(str(source), tag="d3") == checkpoint.find("mid", "d3", 20)


def test_the_folder_above_names_those_below(base: Path, tmp_path: Path) -> None:
    source = stored(tmp_path, theirs.make(2025))
    with pytest.raises(UserError, match=f"has no model_NNNNNN.pt. Name one of these: {source}"):
        import_checkpoint(str(tmp_path / "old"))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"no model_NNNNNN.pt. Try import_hf instead."):
        import_checkpoint(str(tmp_path))
    with pytest.raises(UserError, match="there is no folder '/nowhere'"):
        import_checkpoint("/nowhere")


def test_where_the_tokenizer_is(base: Path, tmp_path: Path) -> None:
    source = str(theirs.write(tmp_path / "base_checkpoints" / "d3", theirs.make(2025)))
    with pytest.raises(UserError, match="no tokenizer.pkl.*--tokenizer"):
        import_checkpoint(source)
    other = theirs.write_tokenizer(tmp_path / "elsewhere")
    first = import_checkpoint(source, tokenizer=str(other))
    assert import_checkpoint(source, tag="b", tokenizer=str(other / "tokenizer.pkl"))
    assert import_checkpoint(source, tag="c", tokenizer=str(first / "tokenizer"))  # one of ours
    small = {bytes([i]): i for i in range(256)}
    with pytest.raises(UserError, match="the model has 300 tokens, and its tokenizer 265"):
        import_checkpoint(source, tokenizer=str(theirs.write_tokenizer(tmp_path / "small", small)))


def test_an_earlier_run_is_set_aside(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = theirs.make(2025)
    first = import_checkpoint(str(stored(tmp_path, model)))
    weights = checkpoint.verify(first).hash
    second = import_checkpoint(str(stored(tmp_path, theirs.make(2025), step=9)), step=9)
    assert checkpoint.steps("base", "d3") == {9: second}
    assert checkpoint.verify(base / "base_checkpoints" / "d3.previous-1" / "step_000020").hash == weights
    assert "d3.previous-1" in capsys.readouterr().out


def test_a_folder_that_holds_both(base: Path, tmp_path: Path) -> None:
    """Upstream's base dir and ours are the same by default."""
    theirs.write_tokenizer(base / "tokenizer")
    source = theirs.write(base / "base_checkpoints" / "d3", theirs.make(2025))
    assert import_checkpoint(str(source)).parent == source
    assert (source / "model_000020.pt").exists()
    with pytest.raises(UserError, match="already holds a run of ours.*--tag"):
        import_checkpoint(str(source))
    assert import_checkpoint(str(source), tag="again")


def test_states_that_are_not_convertible(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = theirs.make(2026)
    source = stored(tmp_path, model)
    theirs.write_optimizer(source, model, theirs.moments(model), 3)
    optim = f"{source}/optim_000020_rank{{}}.pt".format

    def why() -> str:
        folder = import_checkpoint(str(source))
        assert not (folder / "optimizer.safetensors").exists()
        return capsys.readouterr().out.splitlines()[-1]

    shutil.copy(optim(0), source / "optim_000020.pt")
    assert "a rank has two files" in why()
    (source / "optim_000020.pt").unlink()
    whole = Path(optim(1)).read_bytes()
    Path(optim(1)).write_bytes(whole[:-100])
    assert "cut off" in why()
    Path(optim(1)).unlink()
    assert "only those of 0, 2" in why()
    Path(optim(2)).unlink()
    assert "Without the optimiser's state: it has" in why()  # a third of all
    torch.save({"state": {}, "param_groups": []}, optim(0))
    assert "another model" in why()
    torch.save([1], optim(0))
    assert "no state of upstream's optimisers" in why()
    old = theirs.make(2025)
    theirs.write_optimizer(source, old, theirs.moments(old), 1)
    assert "another generation" in why()
    Path(optim(0)).unlink()
    assert "no optim_*.pt" in why()


HOSTILE: list[tuple[dict[str, Any], str]] = [
    ({"n_layer": 10**12}, "n_layer is 1000000000000 .* whose weights have 3"),
    ({"n_embd": 10**12}, "n_embd is"),
    ({"vocab_size": 10**12}, "vocab_size is"),
    ({"sequence_len": 10**12}, "sequence_len is 1000000000000 .* more than can be held"),
    ({"n_head": 10**12}, "cannot be ours"),
    ({"n_head": 3}, "cannot be ours: width 32 does not fit 3 heads"),
    ({"n_kv_head": 4}, "attn.k.weight .* has the shape"),
    ({"n_layer": float("nan")}, "n_layer is 'nan'"),
    ({"n_layer": "3"}, "n_layer is '3'"),
    ({"n_layer": True}, "n_layer is 'True'"),
    ({"n_layer": -3}, "n_layer is '-3'"),
    ({"window_pattern": 3}, "window_pattern is '3'"),
    ({"window_pattern": "XYZ"}, "no pattern of windows"),
    ({"rope_theta": 1}, "settings that neither of our architectures has: rope_theta"),
]


@pytest.mark.parametrize(("change", "message"), HOSTILE, ids=[f"{n}-{'-'.join(c)}" for n, (c, _) in enumerate(HOSTILE)])
def test_a_hostile_config_is_one_sentence(base: Path, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    model = theirs.make(2026)
    source = stored(tmp_path, model, meta={"model_config": {**theirs.settings_of(model), **change}})
    with pytest.raises(UserError, match=message):
        import_checkpoint(str(source))
    assert not (base / "base_checkpoints").exists()


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": ' * 100_000, '{"model_config": 1' + "0" * 5000 + "}", "{}"])
def test_a_damaged_meta_file_is_one_sentence(base: Path, tmp_path: Path, text: str) -> None:
    source = stored(tmp_path, theirs.make(2025))
    (source / "meta_000020.json").write_text(text)
    with pytest.raises(UserError, match="meta_000020.json|model_config"):
        import_checkpoint(str(source))


def test_weights_that_do_not_fit(base: Path, tmp_path: Path) -> None:
    model = theirs.make(2026)
    source = stored(tmp_path, model)
    whole = theirs.weights_of(model)

    def refused(changed: Any, message: str) -> None:
        torch.save(changed, source / "model_000020.pt")
        with pytest.raises(UserError, match=message):
            import_checkpoint(str(source))

    refused(
        {k: v for k, v in whole.items() if "smear" not in k},
        "lacks smear_gate.weight, smear_lambda.*Only models",
    )
    refused({k: v for k, v in whole.items() if k != "x0_lambdas"}, "lacks x0_lambdas.*Only models of two generations")
    refused({**whole, "extra": torch.ones(3)}, "our modern model has not: extra")
    refused({**whole, "x0_lambdas": torch.ones(3, dtype=torch.int64)}, "x0_lambdas in .* holds torch.int64")
    refused({**whole, "_orig_mod.x0_lambdas": torch.ones(3)}, "a weight twice")
    refused({**whole, "x0_lambdas": 3}, "other things than weights")
    refused([1], "no weights by name")
    refused({}, "n_layer is 3 .* weights have 0")


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.mark}'",)


def test_nothing_in_the_files_is_run(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mark = tmp_path / "it ran"
    model = theirs.make(2026)
    source = stored(tmp_path, model)
    theirs.write_optimizer(source, model, theirs.moments(model), 1)
    pickled = tmp_path / "old" / "tokenizer" / "tokenizer.pkl"
    for path in (pickled, source / "model_000020.pt", source / "optim_000020_rank0.pt"):
        before = path.read_bytes()
        if path == pickled:
            path.write_bytes(pickle.dumps([1, Bomb(mark)]))
        else:
            torch.save({"a": torch.ones(3), "b": Bomb(mark)}, path)
        with pytest.raises(SystemExit) as stop:
            run_command(command.Config, command.run, argv=[str(source)])
        assert stop.value.code == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and "it calls 'posix.system'" in lines[0] and str(path) in lines[0]
        path.write_bytes(before)
    assert not mark.exists() and not (base / "base_checkpoints").exists()
    with pickled.open("wb") as file:  # the bomb works: without the reader it goes off
        pickle.dump(Bomb(mark), file)
    pickle.loads(pickled.read_bytes())  # noqa: S301 - our own bomb, to show that it goes off
    assert mark.exists()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_cut_files_are_one_sentence(base: Path, tmp_path: Path, share: float) -> None:
    source = stored(tmp_path, theirs.make(2025))
    for path in (source / "model_000020.pt", tmp_path / "old" / "tokenizer" / "tokenizer.pkl"):
        whole = path.read_bytes()
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(UserError, match="cut off or damaged"):
            import_checkpoint(str(source))
        path.write_bytes(whole)
    assert import_checkpoint(str(source))


def test_a_full_disk_leaves_the_earlier_run(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = stored(tmp_path, theirs.make(2025))
    first = import_checkpoint(str(source))

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="No space left"):
            import_checkpoint(str(source))
    assert checkpoint.steps("base", "d3") == {20: first}
    assert sorted(p.name for p in (base / "base_checkpoints").iterdir()) == [".d3.lock", "d3"]


@pytest.mark.slow
def test_killed_in_between(base: Path, tmp_path: Path) -> None:
    source = stored(tmp_path, theirs.make(2025))
    first = import_checkpoint(str(source))
    code = (
        "import os, sys\nfrom nanochat.checkpoint import arriving\nfrom nanochat.hub import import_checkpoint\n"
        "def die(*_): os._exit(9)\n"
        "setattr(arriving, sys.argv[2], die)\nimport_checkpoint(sys.argv[1])\n"
    )
    for moment in ("write_json", "set_aside"):
        done = subprocess.run([sys.executable, "-c", code, str(source), moment], cwd=ROOT, timeout=120)
        assert done.returncode == 9
        assert checkpoint.tags("base") == ["d3"] and checkpoint.steps("base", "d3") == {20: first}
        assert checkpoint.verify(first)
    import_checkpoint(str(source))
    assert sorted(p.name for p in (base / "base_checkpoints").iterdir()) == [".d3.lock", "d3", "d3.previous-1"]


@pytest.mark.slow
def test_two_imports_at_once(base: Path, tmp_path: Path) -> None:
    source = stored(tmp_path, theirs.make(2025))
    call = [sys.executable, "-m", "scripts.import_checkpoint", str(source)]
    both = [subprocess.Popen(call, cwd=ROOT, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [one.wait(120) for one in both] == [0, 0]
    for tag in ("d3", "d3.previous-1"):
        assert checkpoint.verify(base / "base_checkpoints" / tag / "step_000020")


REPO = "karpathy/nanochat-d3"


def flat(tmp_path: Path, model: GPT) -> Path:
    return theirs.write_tokenizer(theirs.write(tmp_path / REPO, model, meta={"val_loss": 1.0}))


def test_a_mirror_of_the_hub(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = theirs.make(2025)
    flat(tmp_path, model)
    theirs.write(tmp_path / REPO / "mid_checkpoints" / "d3", model)
    monkeypatch.setenv("NANOCHAT_HUB_DIR", str(tmp_path))
    assert import_checkpoint(REPO) == checkpoint.find("sft", "nanochat-d3", 20)
    assert import_checkpoint(f"{REPO}/mid_checkpoints/d3") == checkpoint.find("mid", "d3", 20)
    theirs.write_tokenizer(tmp_path / "tokenizer")  # outside the repository
    (tmp_path / REPO / "tokenizer.pkl").unlink()
    with pytest.raises(UserError, match="no tokenizer.pkl"):
        import_checkpoint(REPO)
    with pytest.raises(UserError, match="no folder nowhere"):
        import_checkpoint(f"{REPO}/nowhere")


def test_the_hub(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = flat(tmp_path, theirs.make(2025))
    theirs.write(folder, theirs.make(2025), step=7, meta={"val_loss": 1.0})
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    files["token_bytes.pt"] = b"nobody needs this"
    server = HubServer({REPO: files})
    close_session()
    with server.running():
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        assert import_checkpoint(REPO) == checkpoint.find("sft", "nanochat-d3", 20)
        assert {r.path.rpartition("/")[2] for r in server.requests if r.path.startswith("/storage")} == {
            "model_000020.pt", "meta_000020.json", "tokenizer.pkl",
        }  # fmt: skip
        with pytest.raises(UserError, match="cannot get karpathy/nothing from the Hugging Face Hub"):
            import_checkpoint("karpathy/nothing")
    close_session()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="cannot get .* NANOCHAT_HUB_DIR"):
        import_checkpoint(REPO)


def test_a_tokenizer_that_would_take_minutes_is_refused(base: Path, tmp_path: Path) -> None:
    source = stored(tmp_path, theirs.make(2025))
    long = {bytes([byte]): byte for byte in range(256)} | {b"%0250d" % n: 256 + n for n in range(1000)}
    theirs.write_tokenizer(tmp_path / "old" / "tokenizer", long)
    with pytest.raises(UserError, match="its tokens are too long"):
        import_checkpoint(str(source))


def test_weights_that_would_mislead_are_refused(base: Path, tmp_path: Path) -> None:
    model = theirs.make(2026)
    source = stored(tmp_path, model)
    path, meta = source / "model_000020.pt", source / "meta_000020.json"
    whole, settings = theirs.weights_of(model), theirs.settings_of(model)

    def refused(message: str, config: dict[str, Any] | None = None, **weights: Any) -> None:
        torch.save({**whole, **weights}, path)
        meta.write_text(json.dumps({"model_config": config or settings}))
        with pytest.raises(UserError, match=message):
            import_checkpoint(str(source))

    for name in ("n_head", "n_kv_head"):
        refused(f"lacks {name}", {k: v for k, v in settings.items() if k != name})
    refused(r"architectures has: a\\nb\\u202e", {**settings, "a\nb\u202e": 1})
    refused(r"our modern model has not: x\\ny", config=None, **{"x\ny": torch.ones(1)})
    refused("x0_lambdas .* holds NaN", x0_lambdas=torch.full((3,), float("nan")))
    refused("vocab_size is 250 .* tables have 320 rows", {**settings, "vocab_size": 250})
    refused("tables have 320, 384 rows", config=None, **{"lm_head.weight": torch.ones(384, 32)})
    tied = whole["transformer.wte.weight"].float()
    refused("share", config=None, **{"lm_head.weight": tied, "transformer.wte.weight": tied})
    torch.save(model.state_dict() | {"embed.weight": whole["transformer.wte.weight"]}, path)  # our names
    with pytest.raises(UserError, match="rows"):
        import_checkpoint(str(source))
    torch.save(model.state_dict(), path)
    meta.write_text(json.dumps({"model_config": settings}))
    assert import_checkpoint(str(source))


@pytest.mark.parametrize("name", ["~nosuch/x", "x" * 300, "", "a\nb", "\0"], ids=range(5))
def test_names_of_no_folder_are_one_sentence(base: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="there is no folder"):
        import_checkpoint(name)
    if name:  # else it is looked for
        with pytest.raises(UserError, match="there is no folder"):
            import_checkpoint(str(stored(tmp_path, theirs.make(2025))), tokenizer=name)


def test_the_metrics_of_a_deleted_run_are_not_the_imports(base: Path, tmp_path: Path) -> None:
    file = training_file("base", "d3")
    file.parent.mkdir(parents=True)
    file.write_text('{"version": 1, "kind": "eval", "step": 20, "val_bpb": 0.7}\n')
    import_checkpoint(str(stored(tmp_path, theirs.make(2025))))
    assert [entry.measured for entry in scan().entries] == [{"val_bpb": 1.5}]
    assert training_file("base", "d3.previous-1").exists() and not file.exists()


@pytest.mark.parametrize(("change", "message"), [(("step", 21), "different steps"), (("exp_avg_sq", -1), "below zero")])
def test_a_state_that_would_mislead(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: tuple[str, int], message: str
) -> None:
    model = theirs.make(2026)
    source = stored(tmp_path, model)
    theirs.write_optimizer(source, model, theirs.moments(model), 2)
    path = source / "optim_000020_rank1.pt"
    saved = torch.load(path, weights_only=True)
    key, value = change
    saved["state"][0][key] = value if key == "step" else saved["state"][0][key] * value
    torch.save(saved, path)
    import_checkpoint(str(source))
    assert message in capsys.readouterr().out.splitlines()[-1]
