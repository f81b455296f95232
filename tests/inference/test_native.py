"""The native runner: equal to the plain model, and every row independent of what is beside it, bit for bit."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat import native as native_module
from nanochat.console import UserError
from nanochat.inference.choosing import runner_for
from nanochat.inference.native_runner import NativeRunner
from nanochat.inference.quantize import quantize_rows, rounded
from nanochat.inference.runner import Chunk
from nanochat.inference.torch_runner import TorchRunner
from nanochat.model import GPT, ModelConfig
from nanochat.native import LEVELS, level, native

FOUND: list[str] = sorted(native().levels()) if native() else []  # type: ignore[union-attr]
pytestmark = pytest.mark.skipif(not FOUND, reason="no native kernels for this machine")
# An odd number of heads per key head, head sizes that fill no vector, outputs that fill no panel.
CLASSIC = ModelConfig(3, 96, 6, 2, 301, 160)
MODERN = ModelConfig(4, 144, 4, 2, 270, 160, arch="modern", windows="SSSL", bigram=101, rope_base=1e5)
ROUND = ModelConfig(2, 128, 2, 2, 512, 160, arch="modern", windows="SL", rope_base=1e5)
CONFIGS = {"classic": CLASSIC, "modern": MODERN, "round": ROUND}
each_level = pytest.mark.parametrize("name", LEVELS)
each_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def model_of(config: ModelConfig, dtype: torch.dtype = torch.float32, seed: int = 0) -> GPT:
    """Random weights, large enough for logits between -4 and 4."""
    model = GPT(config, dtype).init_weights(seed).eval().requires_grad_(False)
    random = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.add_(torch.randn(p.shape, generator=random), alpha=0.1)
    return model


def runner_of(model: GPT, name: str, quantize: str = "", threads: int = 2) -> NativeRunner:
    if name not in FOUND:
        pytest.skip(f"no {name} here")
    runner = NativeRunner(model, name, quantize, threads)
    runner.grow(200, 0)
    return runner


def ids_of(config: ModelConfig, n: int, seed: int = 0) -> list[int]:
    found: list[int] = torch.randint(0, config.vocab_size, (n,), generator=torch.Generator().manual_seed(seed)).tolist()
    return found


def one_by_one(runner: NativeRunner, slot: int, ids: list[int], start: int = 0) -> torch.Tensor:
    """(n, V) logits after every token."""
    given = [Chunk(slot, i, [ids[i]], ids[i - 1] if i else -1) for i in range(start, len(ids))]
    return torch.cat([runner.step([chunk]).clone() for chunk in given])


@each_level
@each_config
def test_float32_equals_the_plain_model(config: ModelConfig, name: str) -> None:
    model, ids = model_of(config), ids_of(config, 150)
    wanted = model(torch.tensor([ids]))[0]
    assert wanted.abs().max() > 1
    torch.testing.assert_close(one_by_one(runner_of(model, name), 0, ids), wanted, atol=2e-5, rtol=0)


@each_level
@pytest.mark.parametrize("softcap", [0.01, 1e6])
def test_the_cap_of_logits_is_exact_far_below_it_and_far_above(softcap: float, name: str) -> None:
    model, ids = model_of(replace(CLASSIC, softcap=softcap)), ids_of(CLASSIC, 20)
    wanted = model(torch.tensor([ids]))[0]
    torch.testing.assert_close(one_by_one(runner_of(model, name), 0, ids), wanted, atol=2e-5, rtol=0)


@each_level
@each_config
def test_bfloat16_is_within_a_hundredth_of_the_same_weights_in_float32(config: ModelConfig, name: str) -> None:
    """Nearer than the plain model in bfloat16, which rounds after every operation."""
    model, ids = model_of(config, torch.bfloat16), ids_of(config, 150)
    exact = GPT(config).eval()
    exact.load_state_dict({key: value.bfloat16().float() for key, value in model.state_dict().items()})
    exact.cos, exact.sin = (t.bfloat16().float() for t in (exact.cos, exact.sin))
    wanted = exact(torch.tensor([ids]))[0]
    far = (one_by_one(runner_of(model, name), 0, ids) - wanted).abs()
    plain = (model(torch.tensor([ids]))[0] - wanted).abs()
    spread = wanted.std()
    rounds_inputs = 5 if name == "avx512_bf16" else 1
    assert far.mean() < 0.002 * rounds_inputs * spread and far.max() < 0.01 * rounds_inputs * spread
    assert far.mean() < plain.mean()


@each_level
@each_config
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_row_does_not_depend_on_the_others(config: ModelConfig, name: str, dtype: torch.dtype) -> None:
    """1 to 150 rows, more than are computed at once, at different positions, on one thread or three: the same bits."""
    model = model_of(config, dtype)
    texts = [ids_of(config, 4 + i, seed=i) for i in range(150)]
    alone = runner_of(model, name, threads=1)
    wanted = [one_by_one(alone, 0, text)[-1] for text in texts[:32]]
    wanted += [alone.step([Chunk(0, 0, text, -1)])[0].clone() for text in texts[32:]]
    for rows, threads in (
        (1, 3),
        (2, 2),
        (5, 2),
        (6, 1),
        (7, 3),
        (13, 2),
        (16, 2),
        (29, 3),
        (32, 2),
        (64, 2),
        (150, 3),
    ):
        runner = runner_of(model, name, threads=threads)
        runner.step([Chunk(i, 0, text[:-1], -1, 0) for i, text in enumerate(texts[:rows])])
        beside = [Chunk(199, 0, ids_of(config, 77), -1)]
        chunks = [Chunk(i, len(text) - 1, text[-1:], text[-2]) for i, text in enumerate(texts[:rows])]
        found = runner.step(beside + chunks)[1:]
        for i in range(rows):
            assert torch.equal(found[i], wanted[i]), (rows, i)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_cut_of_prompts_and_any_order_of_slots_gives_the_same_bits(data: st.DataObject) -> None:
    config = data.draw(st.sampled_from(sorted(CONFIGS)).map(CONFIGS.__getitem__))
    model = model_of(config, data.draw(st.sampled_from([torch.float32, torch.bfloat16])))
    runner = NativeRunner(model, data.draw(st.sampled_from(FOUND)), threads=2)
    runner.grow(8, 0)
    texts = [ids_of(config, data.draw(st.integers(1, 150)), seed=i) for i in range(data.draw(st.integers(1, 4)))]
    right = [NativeRunnerOnce(model, runner.level).all(text) for text in texts]
    slots = data.draw(st.permutations(range(8)))
    done = [0] * len(texts)
    while left := [i for i, text in enumerate(texts) if done[i] < len(text)]:
        chunks, ends = [], []
        for i in data.draw(st.lists(st.sampled_from(left), min_size=1, unique=True)):
            if done[i] and data.draw(st.integers(0, 5)) == 0:
                done[i] = data.draw(st.integers(0, done[i] - 1))  # go back: overwritten
            text, start = texts[i], done[i]
            end = data.draw(st.integers(start + 1, len(text)))
            wanted = data.draw(st.sampled_from([0, 1, end - start]))
            chunks.append(Chunk(slots[i], start, text[start:end], text[start - 1] if start else -1, wanted))
            ends.append((i, end, wanted))
        rows = runner.step(chunks)
        assert len(rows) == sum(wanted for _, _, wanted in ends)
        for i, end, wanted in ends:
            done[i] = end
            assert torch.equal(rows[:wanted], right[i][end - wanted : end])
            rows = rows[wanted:]


class NativeRunnerOnce:
    """The logits (n, V) after each token of a text that is computed token by token, alone, on one thread."""

    def __init__(self, model: GPT, name: str) -> None:
        self.runner = NativeRunner(model, name, threads=1)

    def all(self, ids: list[int]) -> torch.Tensor:
        return one_by_one(self.runner, 0, ids)


@each_level
def test_copies_go_on_like_the_original(name: str) -> None:
    model = model_of(MODERN, torch.bfloat16)
    runner, ids = runner_of(model, name), ids_of(MODERN, 140)
    wanted = one_by_one(runner, 0, ids)
    runner.copy(0, [7, 3], 45)
    for slot in (7, 3):
        assert torch.equal(one_by_one(runner, slot, ids, start=45), wanted[45:])


@each_level
@each_config
def test_eight_bits_equal_the_rounded_plain_model(config: ModelConfig, name: str) -> None:
    model, ids = model_of(config), ids_of(config, 60)
    wanted = rounded(model)(torch.tensor([ids]))[0]
    found = one_by_one(runner_of(model, name, "int8"), 0, ids)
    torch.testing.assert_close(found, wanted, atol=3e-5, rtol=0)
    assert (found - model(torch.tensor([ids]))[0]).abs().max() > 1e-3  # it is rounded


@each_level
@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8"])
def test_products_equal_float64(kind: str, name: str) -> None:
    module = native()
    assert module
    if name not in FOUND:
        pytest.skip(f"no {name} here")
    random = torch.Generator().manual_seed(0)
    for outputs, inputs in ((1, 2), (17, 30), (64, 128), (100, 130), (200, 256), (130, 514)):
        weight = torch.randn(outputs, inputs, generator=random)
        x = torch.randn(32, inputs, generator=random)
        if kind == "int8":
            whole, scales = quantize_rows(weight)
            matrix, exact = module.pack(name, [whole], [scales]), whole.double() * scales.double()[:, None]
        else:
            weight = weight.to(getattr(torch, kind))
            matrix, exact = module.pack(name, [weight]), weight.double()
        halved = kind == "bfloat16" and name == "avx512_bf16"  # inputs are rounded, too
        wanted = (x.bfloat16() if halved else x).double() @ exact.mT
        bound = 2e-6 * (x.double().abs() @ exact.abs().mT) + 1e-30
        whole_y = torch.empty(32, outputs)
        module.product(name, matrix, x.numpy(), whole_y.numpy())
        assert ((whole_y.double() - wanted).abs() <= bound).all(), (outputs, inputs)
        for rows in (1, 2, 3, 4, 5, 6, 7, 11, 16, 31):
            y = torch.empty(rows, outputs)
            module.product(name, matrix, x[:rows].contiguous().numpy(), y.numpy())
            assert torch.equal(y, whole_y[:rows]), (outputs, inputs, rows)


def test_weights_that_are_no_numbers_give_logits_that_are_none() -> None:
    for name in FOUND:
        for place in ("embed.weight", "blocks.1.mlp.up.weight", "blocks.0.attn.k.weight", "head.weight"):
            model = model_of(CLASSIC, torch.bfloat16)
            model.get_parameter(place).view(-1)[:] = torch.nan
            assert runner_of(model, name).step([Chunk(0, 0, [1, 2, 3], -1)]).isnan().any(), (name, place)


def test_values_beyond_float16_are_noticed_and_float32_holds_them() -> None:
    for name in FOUND:
        for dtype in (torch.bfloat16, torch.float32):
            model = model_of(CLASSIC, dtype)
            for block in model.layers:
                block.attn.v.weight.mul_(1e6)
                block.attn.out.weight.div_(1e6)
            logits = one_by_one(runner_of(model, name), 0, ids_of(CLASSIC, 9))
            if dtype == torch.bfloat16:
                assert logits.isnan().any()
            else:
                torch.testing.assert_close(logits, model(torch.tensor([ids_of(CLASSIC, 9)]))[0], atol=1e-4, rtol=0)


def test_changed_weights_are_taken_on_refresh() -> None:
    model = model_of(CLASSIC)
    runner, ids = NativeRunner(model, FOUND[0]), ids_of(CLASSIC, 9)
    before = one_by_one(runner, 0, ids)
    model.load_state_dict(model_of(CLASSIC, seed=5).state_dict())
    runner.refresh()
    after = one_by_one(runner, 0, ids)
    assert not torch.allclose(before, after, atol=0.1)
    torch.testing.assert_close(after, model(torch.tensor([ids]))[0], atol=2e-5, rtol=0)


def test_a_longer_context_than_the_models_goes_on() -> None:
    model = model_of(CLASSIC)
    runner, ids = NativeRunner(model, FOUND[0]), ids_of(CLASSIC, 200)
    first = one_by_one(runner, 0, ids[:100])
    runner.grow(1, 200)
    found = torch.cat((first, one_by_one(runner, 0, ids, start=100)))
    torch.testing.assert_close(found, model(torch.tensor([ids]))[0], atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    "chunk",
    [
        Chunk(0, 0, [301], -1), Chunk(0, 0, [-1], -1), Chunk(0, 0, [], -1), Chunk(-1, 0, [1], -1), Chunk(0, -1, [1], 1),
        Chunk(0, 160, [1], 1), Chunk(0, 159, [1, 1], 1), Chunk(0, 1, [1], 301), Chunk(0, 1, [1], -2),
    ],
    ids=lambda chunk: f"{chunk.slot} {chunk.start} {chunk.ids} {chunk.before}",
)  # fmt: skip
def test_what_lies_outside_is_refused(chunk: Chunk) -> None:
    runner = NativeRunner(model_of(CLASSIC), FOUND[0])
    with pytest.raises(ValueError, match="outside"):
        runner.step([chunk])


@pytest.mark.parametrize(
    ("source", "targets", "length"), [(-1, [1], 5), (0, [-1], 5), (0, [1, -2], 5), (0, [1], -5), (0, [1], 161)]
)
def test_a_copy_outside_is_refused(source: int, targets: list[int], length: int) -> None:
    runner = NativeRunner(model_of(CLASSIC), FOUND[0])
    with pytest.raises(ValueError, match="outside"):
        runner.copy(source, targets, length)


@pytest.mark.parametrize("name", LEVELS)
@pytest.mark.parametrize(
    "spelling", [str.upper, lambda name: name.replace("_", "-"), lambda name: name.replace("_", "")]
)
def test_the_environment_forces_a_level(name: str, spelling: object, monkeypatch: pytest.MonkeyPatch) -> None:
    assert callable(spelling)
    monkeypatch.setenv("NANOCHAT_CPU", spelling(name))
    if name not in FOUND:
        with pytest.raises(UserError, match="cannot be used here"):
            level()
        return
    assert level() == name
    runner = runner_for(model_of(CLASSIC))
    assert isinstance(runner, NativeRunner) and runner.level == name


def test_the_environment_can_ask_for_torch_or_for_nonsense(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(CLASSIC)
    assert isinstance(runner_for(model), NativeRunner)
    assert isinstance(runner_for(model_of(CLASSIC, torch.float16)), TorchRunner)
    monkeypatch.setenv("NANOCHAT_CPU", "torch")
    assert isinstance(runner_for(model), TorchRunner)
    with pytest.raises(UserError, match="eight bits"):
        runner_for(model, "int8")
    monkeypatch.setenv("NANOCHAT_CPU", "sse2")
    with pytest.raises(UserError, match="NANOCHAT_CPU is 'sse2'"):
        runner_for(model)


def test_without_the_native_module_torch_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_module, "native", lambda: None)
    assert isinstance(runner_for(model_of(CLASSIC)), TorchRunner)
    monkeypatch.setenv("NANOCHAT_CPU", "avx2")
    with pytest.raises(UserError, match="no compiler"):
        runner_for(model_of(CLASSIC))


def test_idle_threads_do_not_spin() -> None:
    runner = NativeRunner(model_of(CLASSIC), FOUND[0], threads=4)
    one_by_one(runner, 0, ids_of(CLASSIC, 5))
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_computes_too() -> None:
    """In a process of its own: forking one that runs torch and pytest is not what is tested."""
    code = (
        "import os, threading, time, torch\n"
        "from tests.inference.test_native import CLASSIC, FOUND, NativeRunner, ids_of, model_of, one_by_one\n"
        "runner = NativeRunner(model_of(CLASSIC), FOUND[0], threads=3)\n"
        "ids = ids_of(CLASSIC, 30)\n"
        "wanted = one_by_one(runner, 0, ids)\n"
        "child = os.fork()\n"
        "if not child:\n"  # their memory is that of the parent's threads
        "    waiting = [threading.Thread(target=time.sleep, args=(60,), daemon=True) for _ in range(6)]\n"
        "    [thread.start() for thread in waiting]\n"
        "same = torch.equal(one_by_one(runner, 1, ids), wanted)\n"
        "del runner\n"
        "if not child: os._exit(0 if same else 1)\n"
        "assert same and os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0\n"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True, timeout=120)


def test_runners_can_be_dropped_while_threads_are_on_their_way() -> None:
    """In a process whose freed memory holds nonsense (with glibc), so that reading it shows."""
    code = (
        "from tests.inference.test_native import CLASSIC, FOUND, Chunk, NativeRunner, model_of\n"
        "model = model_of(CLASSIC)\n"
        "for _ in range(400):\n"
        "    runner = NativeRunner(model, FOUND[0], threads=8)\n"
        "    runner.step([Chunk(0, 0, [1, 2, 3], -1)])\n"
        "    runner.step([Chunk(0, 3, [4], 3)])\n"
    )
    environment = os.environ | {"MALLOC_PERTURB_": "85"}
    subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], env=environment, check=True, timeout=120
    )


def test_more_logits_than_tokens_are_refused() -> None:
    runner = NativeRunner(model_of(CLASSIC), FOUND[0])
    for wanted in (-1, 4):
        with pytest.raises(ValueError, match="fewer logits"):
            runner.step([Chunk(0, 0, [1, 2, 3], -1, wanted)])


def test_two_threads_in_one_runner_are_told_so() -> None:
    model, ids = model_of(MODERN), ids_of(MODERN, 150)
    runner = NativeRunner(model, FOUND[0], threads=2)
    runner.grow(8, 0)
    wanted = runner.step([Chunk(0, 0, ids, -1)]).clone()
    told: list[str] = []

    def disturb() -> None:
        while not stop.is_set():
            for disturbance in (lambda: runner._decoder.copy(1, [2], 5), runner._set_rope):
                try:
                    disturbance()
                except RuntimeError as error:
                    told.append(str(error))

    stop, other = threading.Event(), threading.Thread(target=disturb)
    other.start()
    steps = 0
    while steps < 20 or (not told and steps < 2000):
        try:
            assert torch.equal(runner.step([Chunk(0, 0, ids, -1)]), wanted)
        except RuntimeError as error:
            told.append(str(error))
        steps += 1
    stop.set()
    other.join()
    assert told and all("two threads use one runner at once" in message for message in told)
    assert torch.equal(runner.step([Chunk(0, 0, ids, -1)]), wanted)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's")
def test_memory_that_is_missing_ends_a_step_and_no_more() -> None:
    """In a process of its own, which may have no more memory than it has, but for what a short step needs."""
    code = (
        "import resource, torch\n"
        "from dataclasses import replace\n"
        "from tests.inference.test_native import CLASSIC, FOUND, Chunk, NativeRunner, ids_of, model_of\n"
        "runner = NativeRunner(model_of(replace(CLASSIC, seq_len=40000)), FOUND[0], threads=3)\n"
        "ids = ids_of(CLASSIC, 20)\n"
        "wanted = runner.step([Chunk(0, 0, ids, -1)]).clone()\n"
        "limits = resource.getrlimit(resource.RLIMIT_AS)\n"
        "size = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "for room in range(0, 56 << 20, 4 << 20):\n"  # so that it is missing at one place and another
        "    resource.setrlimit(resource.RLIMIT_AS, (size + room, limits[1]))\n"
        "    for attempt in (lambda: runner.step([Chunk(1, 39999, [1], 1), Chunk(2, 39999, [1], 1)]),\n"
        "                    lambda: runner.copy(0, [3], 40000)):\n"
        "        try: attempt()\n"
        "        except MemoryError: pass\n"
        "        else: raise SystemExit(f'{room} bytes are enough')\n"
        "    assert torch.equal(runner.step([Chunk(0, 0, ids, -1)]), wanted)\n"
        "resource.setrlimit(resource.RLIMIT_AS, limits)\n"
        "attempt()\n"
        "assert torch.equal(runner.step([Chunk(3, 0, ids, -1)]), wanted)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=True, timeout=120)


def test_two_runners_in_two_threads() -> None:
    model, ids = model_of(MODERN), ids_of(MODERN, 60)
    runners = [NativeRunner(model, FOUND[0], threads=2) for _ in range(2)]
    wanted = one_by_one(runners[0], 0, ids)
    found: list[torch.Tensor] = []

    def work(runner: NativeRunner) -> None:
        found.append(one_by_one(runner, 1, ids))

    threads = [threading.Thread(target=work, args=(runner,)) for runner in runners]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2 and all(torch.equal(logits, wanted) for logits in found)
