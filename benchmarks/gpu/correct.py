"""Whether the device computes what it should: every kernel against float64, then the tests marked `cuda`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from benchmarks.gpu.sizes import Sizes
from nanochat.console import UserError
from nanochat.scale import Arch

if TYPE_CHECKING:
    from torch import Tensor

    from nanochat.model import GPT, Backend

ROOT = Path(__file__).parents[2]
TESTS = "tests/test_cuda.py"
# Largest |ours - exact| / |exact|, in norms: bfloat16 has 8 significant bits, float8 four and its gradients three.
BFLOAT16, FLOAT8 = 0.02, 0.09
WHOLE = 0.06  # of a whole model in bfloat16, layer upon layer
UPDATE = 0.05  # of an update by bfloat16 Newton-Schulz iterations
FLOAT32 = 3e-3  # products have 11 significant bits on a GPU (TF32)


def pieces(sizes: Sizes) -> dict[str, Callable[[], dict[str, Any]]]:
    backends: tuple[Backend, ...] = ("blocked", "flex", "sdpa")
    backends = backends if sizes.on_cpu else ("fa3", "flash", *backends)
    return {
        **{f"attention {backend}": partial(attention, sizes, backend) for backend in backends},
        "loss": partial(loss, sizes),
        "gradients": partial(gradients, sizes),
        "update": partial(update, sizes),
        "float8": partial(float8, sizes),
        "cache": partial(cache, sizes),
        "tests": partial(tests, sizes),
    }


def distance(ours: Tensor, exact: Tensor) -> float:
    """|ours - exact| / |exact|, in norms; infinity for what is not finite."""
    exact = exact.double().cpu()
    found = float((ours.double().cpu() - exact).norm() / exact.norm())
    return found if found == found else float("inf")


def judged(errors: dict[str, float], tolerance: float) -> dict[str, Any]:
    worst = max(errors, key=lambda name: errors[name])
    return {"ok": errors[worst] <= tolerance, "worst": worst, "distance": errors[worst], "tolerance": tolerance}


def attention(sizes: Sizes, backend: Backend) -> dict[str, Any]:
    """Values and gradients, full and windowed, with as many key heads as query heads and with fewer.

    FlexAttention is compiled, as in use; on a CPU, where it cannot train, only values are checked.
    """
    import torch

    from nanochat.model import attention as ours

    if backend == "fa3":
        try:
            ours.choose_attention(torch.device(sizes.device), torch.bfloat16, wanted=backend)
        except UserError as error:
            return {"ok": True, "absent": error.problem}
    errors = {}
    forward_only = sizes.on_cpu and backend == "flex"
    attend = (
        torch.compile(ours.attend, dynamic=False, backend=sizes.compiler)
        if backend == "flex" and not forward_only
        else ours.attend
    )
    for (heads, groups, dim), T in zip(sizes.heads, sizes.lengths, strict=True):
        for window in (sizes.window, T):
            g = torch.Generator().manual_seed(T + window)
            shapes = [(2, n, T, dim) for n in (heads, groups, groups, heads)]
            q, k, v, up = (torch.randn(s, generator=g).to(sizes.device, torch.bfloat16) for s in shapes)
            case = f"{heads}/{groups} heads of {dim}, T {T}, window {window}"
            Q, K, V = (x.double().requires_grad_() for x in (q, k, v))
            expected = plain_attention(Q, K, V, window, dim**-0.5)
            if forward_only:
                errors[f"{case}, values"] = distance(
                    ours._flex(q, k, v, ours._flex_mask(T, window, q.device), dim**-0.5), expected
                )
                continue
            q, k, v = (x.requires_grad_() for x in (q, k, v))
            y = attend(q, k, v, window, dim**-0.5, None, backend)
            errors[f"{case}, values"] = distance(y, expected)
            wanted = torch.autograd.grad(expected, (Q, K, V), up.double())
            for name, a, b in zip("qkv", torch.autograd.grad(y, (q, k, v), up), wanted, strict=True):
                errors[f"{case}, gradient of {name}"] = distance(a, b)
    return judged(errors, BFLOAT16)


def plain_attention(q: Tensor, k: Tensor, v: Tensor, window: int, scale: float) -> Tensor:
    """The definition, with all T x T scores."""
    import torch

    k, v = (x.repeat_interleave(q.size(1) // x.size(1), 1) for x in (k, v))
    at = torch.arange(q.size(2), device=q.device)
    back = at[:, None] - at
    scores = (q @ k.mT * scale).masked_fill((back < 0) | (back > window), float("-inf"))
    return scores.softmax(-1) @ v


def loss(sizes: Sizes) -> dict[str, Any]:
    """Head and cross-entropy in bfloat16, some targets ignored, plain and compiled."""
    import torch
    import torch.nn.functional as F

    from nanochat.model import chunk_rows, linear_cross_entropy

    g = torch.Generator().manual_seed(0)
    width = 64
    n = min(chunk_rows(sizes.vocab, torch.device(sizes.device)) * 3 // 2, 8192)
    h = torch.randn(n, width, generator=g).to(sizes.device, torch.bfloat16).requires_grad_()
    w = torch.randn(sizes.vocab, width, generator=g).to(sizes.device).requires_grad_()
    targets = torch.randint(-1, sizes.vocab, (n,), generator=g).to(sizes.device)
    exact = [h.detach().double().requires_grad_(), w.detach().bfloat16().double().requires_grad_()]
    logits = 15 * torch.tanh(exact[0] @ exact[1].T / 15)
    expected = F.cross_entropy(logits, targets, ignore_index=-1, reduction="sum")
    wanted = torch.autograd.grad(expected, exact)
    errors = {}
    compiled = torch.compile(linear_cross_entropy, dynamic=False, backend=sizes.compiler)
    for name, function in (("plain", linear_cross_entropy), ("compiled", compiled)):
        total = function(h, w, targets, 15.0)
        errors[f"{name}, value"] = distance(total, expected)
        for what, a, b in zip(("states", "weights"), torch.autograd.grad(total, (h, w)), wanted, strict=True):
            errors[f"{name}, gradient of {what}"] = distance(a, b)
    return judged(errors, BFLOAT16)


def small_models(sizes: Sizes, arch: Arch = "modern") -> tuple[GPT, GPT]:
    """One model on the device in its compute dtype, and on the CPU in float64; no weight is 0."""
    import torch

    from nanochat.model import GPT, ModelConfig
    from nanochat.scale import shape

    # Two layers cover all cases: a short window in the first, a full one and value embeddings in the second.
    config = ModelConfig.of(shape(2, 512, sizes.check_seq_len), arch, "SL" if arch == "modern" else "L")
    exact = GPT(config, torch.float64).init_weights(0)
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in exact.parameters():
            p.add_(torch.randn(p.shape, generator=g) * 0.02)
    ours = GPT(config, sizes.machine().dtype)
    ours.load_state_dict(exact.state_dict())
    return ours.to(sizes.device), exact.double()


def gradients(sizes: Sizes) -> dict[str, Any]:
    """The loss of a whole model and all its gradients, compiled as in training, both architectures."""
    import torch

    errors = {}
    for arch in get_args(Arch):
        ours, exact = small_models(sizes, arch)
        T = exact.config.seq_len
        ids = torch.randint(0, 512, (2, T + 1), generator=torch.Generator().manual_seed(1))
        expected = exact.loss(ids[:, :-1], ids[:, 1:])
        expected.backward()  # type: ignore[no-untyped-call]
        there = ids.to(sizes.device)
        compiled = torch.compile(ours.loss, dynamic=False, backend=sizes.compiler)
        total = compiled(there[:, :-1].contiguous(), there[:, 1:].contiguous())
        total.backward()
        errors[f"{arch}, loss"] = distance(total.detach(), expected.detach())
        grads = [torch.cat([p.grad.double().cpu().flatten() for p in m.parameters() if p.grad is not None])
                 for m in (ours, exact)]  # fmt: skip
        errors[f"{arch}, all gradients"] = distance(*grads)
        for (name, p), q in zip(ours.named_parameters(), exact.parameters(), strict=True):
            if p.grad is None or q.grad is None or not float(p.grad.abs().max()) > 0 < float(q.grad.abs().max()):
                errors[f"{arch}, {name} has no gradient"] = float("inf")
            elif p.ndim > 1:  # gradients of single numbers are sums that nearly cancel
                errors[f"{arch}, gradient of {name}"] = distance(p.grad, q.grad)
    return judged(errors, WHOLE)


def update(sizes: Sizes) -> dict[str, Any]:
    """One step of the optimiser on equal gradients: how far every weight moved."""
    import torch

    from nanochat.optim import Optimizer, Schedule
    from nanochat.scale import Rates
    from nanochat.train import muon_dtype

    errors = {}
    ours, exact = small_models(sizes)
    machine = sizes.machine()
    # Uncompiled on a CPU, where building code takes longer than a test may.
    optimizers = (
        Optimizer(ours, Rates(), muon_dtype(machine), compiled=not sizes.on_cpu),
        Optimizer(exact, Rates(), torch.float64),
    )
    before = {name: p.detach().clone() for name, p in exact.named_parameters()}
    g = torch.Generator().manual_seed(2)
    for p, q in zip(ours.parameters(), exact.parameters(), strict=True):
        grad = torch.randn(p.shape, generator=g)
        p.grad, q.grad = grad.to(sizes.device), grad.double()
    for optimizer in optimizers:
        optimizer.step(Schedule(100, warmup=0), 10)
    for name, q in exact.named_parameters():
        moved = q.detach() - before[name]
        errors[name] = distance(dict(ours.named_parameters())[name].detach().double().cpu() - before[name], moved)
    return judged(errors, UPDATE)


def float8(sizes: Sizes) -> dict[str, Any]:
    """A linear layer's three products, plain and compiled, and those of the loss."""
    import torch

    from nanochat.model import Rounded, float8_linear, linear_cross_entropy, round_weights

    errors = {}
    g = torch.Generator().manual_seed(0)
    n_in, n_out = (1536, 6144) if not sizes.on_cpu else (128, 256)
    x = torch.randn(2, 512, n_in, generator=g).to(sizes.device, torch.bfloat16).requires_grad_()
    w = (torch.randn(n_out, n_in, generator=g) * 0.02).to(sizes.device).requires_grad_()
    up = torch.randn(2, 512, n_out, generator=g).to(sizes.device, torch.bfloat16)
    X, W, U = x.detach().double(), w.detach().double(), up.double()
    rounded = Rounded(w)
    round_weights([w.detach()], [rounded.tensors])
    wanted = (X @ W.T, U @ W, U.flatten(0, 1).T @ X.flatten(0, 1))
    compiled = torch.compile(float8_linear, dynamic=False, backend=sizes.compiler)
    for name, function in (("plain", float8_linear), ("compiled", compiled)):
        y = function(x, w, rounded.tensors)
        found = (y, *torch.autograd.grad(y, (x, w), up))
        for what, a, b in zip(("values", "gradient of x", "gradient of weight"), found, wanted, strict=True):
            errors[f"{name}, {what}"] = distance(a, b)
    targets = torch.randint(-1, n_out, (1024,), generator=g).to(sizes.device)
    h, H, K = x.flatten(0, 1), X.flatten(0, 1).requires_grad_(), W.clone().requires_grad_()
    ours = linear_cross_entropy(h, w, targets, 15.0, rounded=rounded.tensors)
    exact = linear_cross_entropy(H, K, targets, 15.0)
    errors["loss"] = distance(ours, exact)
    pairs = zip(torch.autograd.grad(ours, (x, w)), torch.autograd.grad(exact, (H, K)), strict=True)
    for what, (a, b) in zip(("states", "head"), pairs, strict=True):
        errors[f"loss, gradient of {what}"] = distance(a.view_as(b), b)
    return judged(errors, FLOAT8)


def cache(sizes: Sizes) -> dict[str, Any]:
    """Logits token by token through the KV cache, and all at once, in float32."""
    import torch

    from nanochat.model.cache import KVCache

    _, exact = small_models(sizes)
    model = type(exact)(exact.config)
    model.load_state_dict(exact.state_dict())
    model = model.to(sizes.device)
    ids = torch.randint(0, 512, (2, 40), generator=torch.Generator().manual_seed(3)).to(sizes.device)
    last = [[-1, -1], *ids.T.tolist()]  # the tokens before each position
    with torch.no_grad():
        expected = exact(ids.cpu())
        held = KVCache(model.config, 2, 40, sizes.device, torch.float32)
        spans = [(0, 30), *((i, i + 1) for i in range(30, 40))]
        steps = [model(ids[:, a:b], held.continued([0, 1], [a, a], last[a], b - a)) for a, b in spans]
    return judged(
        {"all at once": distance(model(ids), expected), "cached": distance(torch.cat(steps, 1), expected)}, FLOAT32
    )


def tests(sizes: Sizes) -> dict[str, Any]:
    """The tests marked `cuda`, where pytest is installed; without a card only whether they can be collected."""
    from importlib.util import find_spec

    if not find_spec("pytest"):
        return {"not_run": "pytest is not installed"}
    only = ["--collect-only"] if sizes.on_cpu else []
    command = [sys.executable, "-m", "pytest", "-q", "-m", "cuda", "-p", "no:cacheprovider", *only, TESTS]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # whatever plugins a strange machine has
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    lines = (done.stdout + done.stderr).strip().splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return {"ok": done.returncode == 0, "said": lines[-1] if lines else "", "failed": failed[:10]}
