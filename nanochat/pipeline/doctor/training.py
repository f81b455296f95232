"""Twenty steps of a real training on random text, on all GPUs: finite, learning, and as fast as it should be."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any

from nanochat.console import UserError, file_size
from nanochat.machine import has_compiler, peak_flops, setup
from nanochat.pipeline.doctor import ranks
from nanochat.pipeline.doctor.finding import Finding, ok, stop, together, warning
from nanochat.pipeline.doctor.situation import Situation

if TYPE_CHECKING:
    from nanochat.model import ModelConfig

STEPS, WARM = 20, 6  # steps in all, and those that do not count: the first ones compile
# On a GPU, a model whose speed is known. Only its pieces are compiled, which takes 10 seconds and not 62.
DEPTH, CONTEXT, VOCAB = 12, 2048, 32768
GPU_TOKENS = 65536  # a step and GPU, at most
LEAST = 0.7  # share of the expected speed
CPU_LEAST = 0.15  # share of the matmul peak that a CPU reaches even in a small model, if nothing else runs


def training(now: Situation) -> Finding:
    if 0 < now.gpus < now.ranks:
        return stop(f"{now.ranks} ranks cannot share {now.gpus} GPUs", "Set NPROC_PER_NODE to the number of GPUs")
    try:
        found = [measure(now)] if now.ranks == 1 else ranks.on_all(measure, now)
    except Exception as error:  # compilers and drivers have their own
        known = isinstance(error, UserError | ranks.RanksFailed)
        why = str(error) if known else f"{type(error).__name__}: {error}"
        return stop(f"{STEPS} steps of training fail: {why}", "Mend this before anything longer")
    return judge(found[0], now)


def measure(now: Situation, steps: int = STEPS) -> dict[str, Any]:
    """On every rank: losses, seconds a step, and what the speed is compared with."""
    import torch

    from nanochat.feed import MicroBatch, Step
    from nanochat.model import GPT
    from nanochat.optim import Schedule
    from nanochat.train import BaseConfig, LossScale, Stepper, choose_rows, make_loss, make_plan
    from nanochat.train.equip import make_optimizer
    from nanochat.train.step import NotFiniteError

    machine = setup()
    gpu = machine.device.type == "cuda"
    model_config = _model(now, gpu)
    length, world = model_config.seq_len, machine.ranks.world
    rows = choose_rows(world * GPU_TOKENS // length, model_config.shape, 0, machine)
    batch = rows * world * length
    config = BaseConfig(total_batch_size=batch, num_iterations=steps)
    plan = make_plan(config, model_config, machine, 0.0)
    model = GPT(model_config, machine.dtype).init_weights(0).to(machine.device)
    optimizer = make_optimizer(model, plan, config, machine)
    if gpu and has_compiler():
        model.compile_parts()
    loss = model.loss if gpu else make_loss(model, "auto", machine)
    stepper = Stepper(machine, model, optimizer, loss, LossScale())
    schedule, losses, seconds = Schedule.pretraining(steps), [], []
    draw = torch.Generator().manual_seed(machine.ranks.rank)
    frequent = 1 / (10 + torch.arange(model_config.vocab_size, dtype=torch.float32))
    try:
        for number in range(steps):
            ids = torch.multinomial(frequent, rows * (length + 1), True, generator=draw).view(rows, -1)
            step = Step([MicroBatch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())], rows * length, {})
            began = time.perf_counter()
            losses.append(stepper(step, batch, schedule, number))
            seconds.append(time.perf_counter() - began)
    except NotFiniteError as error:
        return {"bad": f"{error} in step {len(losses) + 1}"}
    # Matrices may be updated in turns, so that steps count in pairs.
    counted = seconds[min(WARM, steps // 2) :]
    pairs = [(a + b) / 2 for a, b in zip(counted[::2], counted[1::2], strict=False)] or counted
    return {
        "first": statistics.mean(losses[:3]),
        "last": statistics.mean(losses[-3:]),
        "tokens_per_s": batch / statistics.median(pairs),
        "flops_per_token": model_config.flops_per_token,
        "peak": peak_flops(machine) * world,
        "memory": torch.cuda.max_memory_allocated() if gpu else 0,
    }


def _model(now: Situation, gpu: bool) -> ModelConfig:
    from nanochat.model import ModelConfig

    if gpu:
        return ModelConfig.from_depth(min(DEPTH, now.depth), VOCAB, CONTEXT)
    tiny = Situation()
    return ModelConfig.from_depth(min(tiny.depth, now.depth), tiny.vocab_size, tiny.context)


def judge(found: dict[str, Any], now: Situation) -> Finding:
    """What the numbers of `measure` mean. They come from a process of ours."""
    if "bad" in found:
        return stop(
            f"training breaks: {found['bad']}", "Try NANOCHAT_DTYPE=float32; if that breaks, too, take another machine"
        )
    speed = found["tokens_per_s"]
    mfu = speed * found["flops_per_token"] / found["peak"]
    memory = f", {file_size(found['memory'])} of memory" if found["memory"] else ""
    said = f"{STEPS} steps at {speed:,.0f} tokens/s, MFU {mfu:.0%}{memory}"
    findings = []
    if not found["last"] < found["first"]:
        problem = f"the loss does not fall ({found['first']:.3f}, then {found['last']:.3f})"
        findings.append(warning(problem, "Train the tiny world first (nanochat speedrun --dataset=tinyworld)"))
    expected, least, basis = expectation(found, now)
    if speed < least:
        text = f"{said}, {speed / expected:.0%} of the {expected:,.0f} expected ({basis})"
        findings.append(warning(text, why_slow(now)))
    elif expected and now.gpus:
        findings.append(ok(f"{said}, {speed / expected:.0%} of the {expected:,.0f} expected ({basis})"))
    else:
        findings.append(ok(f"{said} ({basis})"))
    return together(findings)


def expectation(found: dict[str, Any], now: Situation) -> tuple[float, float, str]:
    """Tokens a second that such a training should reach here, below which it is too slow, and what that rests on;
    zeros when nothing is known."""
    from nanochat import gpus
    from nanochat.pipeline import estimate

    if not now.gpus:
        least = CPU_LEAST * found["peak"] / found["flops_per_token"]
        return least / LEAST, least, "MFU is of the matmul peak measured here"
    card = gpus.find(now.gpu)
    if not card:
        return 0.0, 0.0, "this GPU is not in the table, so nothing is expected of it"
    model = _model(now, gpu=True)
    published = estimate.tokens_per_second(card, now.ranks, model)
    if not published.known:
        return 0.0, 0.0, f"nothing is expected of this GPU: {published.basis}"
    ours = published.times(1 / estimate.slower(model.depth, fp8=False))  # in pieces, as here
    return ours.value, min(LEAST * ours.value, ours.low), published.basis


def why_slow(now: Situation) -> str:
    reasons = ["other programs at work", "heat or a power limit"]
    if not has_compiler():
        reasons.insert(0, "no compiler")
    reasons.append("a virtual machine with less than it shows" if not now.gpus else "slow memory or PCIe")
    return f"Look for the reason: {', '.join(reasons)}" + (" (nvidia-smi -q -d PERFORMANCE)" if now.gpus else " (top)")
