"""Which attention is chosen, with a CPU in the part of cards that can do more or less."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.attention as torch_attention
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nanochat.console import UserError
from nanochat.machine import Machine, Ranks
from nanochat.model import GPT, ModelConfig, attention, choose_attention
from nanochat.model.trying import LENGTH, error_of, first_right, plain
from nanochat.train import equip

CPU = torch.device("cpu")


def right(q: Tensor, k: Tensor, v: Tensor, window: int, scale: float) -> Tensor:
    return plain(q, k, v, window, scale)


def raising(error: BaseException) -> Callable[..., Any]:
    def call(*given: Any) -> Any:
        raise error

    return call


@pytest.mark.parametrize(
    ("failing", "why"),
    [
        (
            raising(RuntimeError("CUDA error: no kernel image is available\nfor execution")),
            "CUDA error: no kernel image",
        ),
        (raising(ImportError("libcudart.so.13: cannot open")), "libcudart.so.13"),
        (raising(AttributeError()), "AttributeError()"),
        (lambda q, k, v, window, scale: plain(q, k, v, window + 1, scale), "away from plain math"),
        (lambda q, k, v, window, scale: plain(q, k, v, window, scale) * float("nan"), "it is inf away"),
        (lambda q, k, v, window, scale: plain(q, k.detach(), v, window, scale), "not have been used"),
    ],
)
def test_what_fails_is_passed_over_and_told(failing: Callable[..., Any], why: str) -> None:
    chosen = first_right([("best", lambda: failing), ("good", lambda: right)], CPU, torch.float32, 32, True)
    assert chosen.name == "good" and len(chosen.refused) == 1
    assert why in str(chosen) and str(chosen).startswith("good; not best: ") and "\n" not in str(chosen)


def test_a_wrong_gradient_is_found() -> None:
    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Tensor:
            return grads[0] * 1.1

    def wrong(q: Tensor, k: Tensor, v: Tensor, window: int, scale: float) -> Tensor:
        return plain(q, Doubled.apply(k), v, window, scale)

    assert error_of(right, LENGTH, CPU, torch.float32, 2, 32) < 1e-5
    assert error_of(wrong, LENGTH, CPU, torch.float32, 2, 32) == pytest.approx(0.1, rel=0.01)


def test_one_that_was_asked_for_and_fails_ends_with_the_reason() -> None:
    with pytest.raises(UserError, match="flex: no kernel") as found:
        first_right([("flex", lambda: raising(RuntimeError("no kernel")))], CPU, torch.float32, 32, False)
    assert "--attention" in found.value.remedies[0]
    with pytest.raises(UserError, match="fa3: it is for Hopper"):
        choose_attention(CPU, torch.bfloat16, wanted="fa3")
    with pytest.raises(UserError, match="flash: "):
        choose_attention(CPU, torch.bfloat16, wanted="flash")


def test_a_kernel_that_breaks_the_process_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "zeros", raising(RuntimeError("CUDA error: an illegal memory access")))
    with pytest.raises(UserError, match="fa3 attention broke this process when it was tried: misaligned"):
        first_right([("fa3", raising(RuntimeError("misaligned")))], CPU, torch.float32, 32, False)


class Card:
    """A GPU as far as choosing goes: a torch device whose calls a CPU takes. has: what runs on it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], has: set[str]) -> None:
        self.active = ""
        self.has = has

        def on_cpu(q: Tensor, *given: Any, backend: str) -> Tensor:
            if backend not in has or (backend == "fa3") != (self.active == "FA3"):
                raise RuntimeError(f"no {backend} kernel image is available for execution on the device")
            return plain(q, *given)

        def restore() -> None:
            self.active = ""

        def activate(name: str) -> None:
            __import__("flash_attn_interface")
            self.active = name

        real = attention.choose_attention.__wrapped__
        monkeypatch.setattr(attention, "attend", on_cpu)
        monkeypatch.setattr(attention, "has_compiler", lambda: "compiler" in has)
        monkeypatch.setattr(torch, "compile", lambda call, **how: call)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(torch_attention, "list_flash_attention_impls", lambda: ["FA3", "FA4"])
        monkeypatch.setattr(torch_attention, "activate_flash_attention_impl", activate)
        monkeypatch.setattr(torch_attention, "restore_flash_attention_impl", restore)
        monkeypatch.setattr(torch_attention, "current_flash_attention_impl", lambda: self.active or None)
        if "package" in has:
            module = ModuleType(attention.FA3)
            module.__spec__ = sys.__spec__
            monkeypatch.setitem(sys.modules, attention.FA3, module)
        found = attention.first_right
        monkeypatch.setattr(attention, "first_right", lambda candidates, device, *more: found(candidates, CPU, *more))
        self.choose = lambda dtype=torch.bfloat16, wanted="auto": real(torch.device("cuda", 0), dtype, 32, True, wanted)


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    yield
    attention.choose_attention.cache_clear()


@pytest.mark.parametrize(
    ("card", "capability", "has", "name", "told"),
    [
        ("H100", (9, 0), {"fa3", "package", "flash", "flex", "compiler"}, "fa3", ""),
        ("H100 without the package", (9, 0), {"flash", "flex", "compiler"}, "flash", "is not installed"),
        ("H100 with another's package", (9, 0), {"package", "flash"}, "flash", "no fa3 kernel image"),
        ("B200", (10, 0), {"fa3", "package", "flash"}, "flash", "it is for Hopper"),
        ("RTX 5090, old torch", (12, 0), {"flex", "compiler", "sdpa"}, "flex", "no flash kernel image"),
        ("L4", (8, 9), {"flash", "flex", "compiler", "sdpa"}, "flash", "it is for Hopper"),
        ("T4", (7, 5), {"flex", "compiler", "sdpa"}, "flex", "no flash kernel image"),
        ("T4 without a compiler", (7, 5), {"flex", "sdpa"}, "sdpa", "without a C++ compiler"),
        ("something else", (3, 5), {"blocked"}, "blocked", "no sdpa kernel image"),
    ],
)
def test_cards(
    card: str, capability: tuple[int, int], has: set[str], name: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = Card(monkeypatch, capability, has).choose()
    assert chosen.name == name and told in str(chosen)
    order = attention.ORDER
    assert [refused for refused, _ in chosen.refused] == list(order[: order.index(name)])


def test_flash_attention_3_is_switched_off_again_where_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    card = Card(monkeypatch, (9, 0), {"package", "flash"})
    assert card.choose().name == "flash" and not card.active
    works = Card(monkeypatch, (9, 0), {"package", "fa3"})
    assert works.choose(wanted="fa3").name == "fa3" and works.active == "FA3"
    with pytest.raises(UserError, match="no flash kernel"):
        works.choose(wanted="flash")


def test_a_run_says_what_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    model = GPT(ModelConfig(2, 32, 2, 1, 50, 16))
    equip.set_attention(model, "auto", Machine(CPU, torch.float32, Ranks()))
    assert "attention: blocked\n" in capsys.readouterr().out
    assert all(block.attn.backend == "blocked" for block in model.layers)


class Copies(TorchDispatchMode):
    """Counts copies of at least `size` numbers into the same dtype, and how often positions are made."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.found, self.ranges = size, list[str](), 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        self.ranges += name == "arange"
        if name in ("clone", "contiguous", "copy_", "_to_copy") and args[0].numel() >= self.size:
            source = args[1] if name == "copy_" else args[0]
            if source.dtype == out.dtype:
                self.found.append(name)
        return out


@pytest.mark.parametrize("kv_heads", [1, 2])
@pytest.mark.parametrize("backend", ["fa3", "flash"])
def test_a_layer_copies_nothing_for_attention(backend: attention.Backend, kv_heads: int) -> None:
    """On tensors without numbers, forward and backward; and where rows begin is told once for all layers."""
    config = ModelConfig(4, 64, 2, kv_heads, 50, 512, "modern", windows="S" if backend == "flash" else "SL")
    with torch.device("meta"):
        model = GPT(config, torch.bfloat16)
    model.use_attention(backend)
    ids = torch.zeros(3, 512, dtype=torch.long, device="meta")
    place = model._place(ids, None)
    for layer in (1, 2):  # with a value embedding, and without
        x = torch.zeros(3, 512, 64, dtype=torch.bfloat16, device="meta", requires_grad=True)
        value = torch.zeros(3, 512, kv_heads * 32, dtype=torch.bfloat16, device="meta")
        with Copies(3 * 512 * 32) as copies:
            y = model.layers[layer](x, place, value if config.has_value_embedding(layer) else None)
            y.backward(torch.zeros_like(y))
        assert not copies.found and not copies.ranges
    with Copies(3 * 512 * 32) as copies:
        model._place(ids, None)
    assert copies.ranges == 1
