"""Whether torch computes on this machine's GPUs, and the facts about them that the other checks build on."""

from __future__ import annotations

import os
import re
import warnings
from typing import Any

from nanochat.console import file_size
from nanochat.machine import resolve_dtype
from nanochat.pipeline.doctor.driver import CUDA_INDEX, has_nvidia, hides_all
from nanochat.pipeline.doctor.finding import Finding, ok, stop, together, warning
from nanochat.pipeline.doctor.situation import Situation

SIZE, CLOSE = 512, 0.02  # side of the matrices that are multiplied on each card; relative error of bfloat16
FREE = 0.9  # of a card's memory


def cuda(now: Situation) -> Finding:
    """now: only `ranks` counts."""
    try:
        import torch
    except (ImportError, OSError) as error:  # a library of CUDA's that is missing or of another version
        return stop(f"torch cannot be loaded: {error}", "Install it again: pip install --force-reinstall torch")
    try:
        return _look(torch, now)
    except RuntimeError as error:
        why = str(error).strip().splitlines()[0]
        return stop(f"CUDA fails: {why}", "Restart the machine; see the driver's line")


def _look(torch: Any, now: Situation) -> Finding:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        usable = torch.cuda.is_available()
        count = torch.cuda.device_count() if usable else 0
    if not usable or not count:
        return _without(torch, [str(one.message) for one in said])
    names = [torch.cuda.get_device_name(card) for card in range(count)]
    capability = min(torch.cuda.get_device_capability(card) for card in range(count))
    room = [torch.cuda.mem_get_info(card) for card in range(count)]
    memory = min(total for _, total in room)
    kinds = ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
    found = [
        ok(
            f"torch sees {kinds} with {file_size(memory)} of memory, capability {capability[0]}.{capability[1]}",
            gpus=count, gpu=names[0], capability=float(f"{capability[0]}.{capability[1]}"), memory=memory,
        )
    ]  # fmt: skip
    found += [*_code(torch, capability), *_half(torch, capability), *_computes(torch, count)]
    if len(set(names)) > 1:
        found.append(warning("the GPUs differ, and the slowest sets the pace", "Set CUDA_VISIBLE_DEVICES to one kind"))
    full = [str(card) for card, (free, total) in enumerate(room) if free < FREE * total]
    if full:
        remedy = "End the other programs that use it (nvidia-smi names them)"
        found.append(warning(f"memory of GPU {', '.join(full)} is in use", remedy))
    whole = 1 << (count.bit_length() - 1)
    if whole < count and now.ranks == 1:
        found.append(ok(f"a training takes {whole} of the {count}, since batches are powers of two"))
    return together(found)


def _without(torch: Any, said: list[str]) -> Finding:
    """The finding where torch cannot use a GPU."""
    why = f": {said[0].splitlines()[0]}" if said and said[0] else ""
    hidden = hides_all(os.environ.get("CUDA_VISIBLE_DEVICES"))
    if hidden or not has_nvidia():
        dtype = str(resolve_dtype(torch.device("cpu"))).removeprefix("torch.")
        mps = torch.backends.mps.is_available()
        none = "CUDA_VISIBLE_DEVICES hides the GPUs" if hidden else "no GPU"
        return ok("an Apple GPU (mps) computes" if mps else f"{none}: the CPU computes, in {dtype}", gpus=0)
    if torch.version.cuda is None and not torch.version.hip:
        remedy = f"Install one that is: {CUDA_INDEX}cu128"
        return stop(f"torch {torch.__version__} is not built for CUDA, and there is an NVIDIA card", remedy)
    return stop(f"torch cannot use the NVIDIA card{why}", "See the driver's line; in Docker, start with --gpus all")


def _code(torch: Any, capability: tuple[int, int]) -> list[Finding]:
    """Whether torch's kernels were compiled for such a card."""
    if torch.version.hip:
        return []
    majors = {int(found[1]) for name in torch.cuda.get_arch_list() if (found := re.match(r"sm_(\d+)\d", name))}
    later = any(name.startswith("compute_") for name in torch.cuda.get_arch_list())
    if not majors or capability[0] in majors or (later and capability[0] > max(majors)):
        return []
    known = ", ".join(f"{major}.x" for major in sorted(majors))
    problem = f"this torch has code for capability {known}, not for {capability[0]}.{capability[1]}"
    return [stop(problem, f"Install a torch that has: {CUDA_INDEX}cu128")]


def _half(torch: Any, capability: tuple[int, int]) -> list[Finding]:
    dtype = resolve_dtype(torch.device("cuda", 0))  # UserError for an unknown NANOCHAT_DTYPE
    if torch.version.hip or dtype != torch.float32:
        return []
    if capability >= (8, 0):
        slow = "NANOCHAT_DTYPE=float32 keeps flash attention and most of the speed from these GPUs"
        return [warning(slow, "Unset NANOCHAT_DTYPE")]
    problem = "these GPUs have no bfloat16: training is in float32, several times slower"
    return [warning(problem, "Try NANOCHAT_DTYPE=float16, or take an Ampere or newer card")]


def _computes(torch: Any, count: int) -> list[Finding]:
    """A product on each card, compared with the CPU's."""
    g = torch.Generator().manual_seed(0)
    a, b = (torch.randn(SIZE, SIZE, generator=g) for _ in range(2))
    right = a @ b
    bad = []
    for card in range(count):
        try:
            there = (a.to(f"cuda:{card}") @ b.to(f"cuda:{card}")).cpu()
        except RuntimeError as error:
            why = str(error).splitlines()[0]
            return [stop(f"GPU {card} does not compute: {why}", "Restart the machine, or set CUDA_VISIBLE_DEVICES")]
        off = (there - right).norm() / right.norm()
        if not off < CLOSE:
            bad.append(str(card))
    if bad:
        return [stop(f"GPU {', '.join(bad)} computes wrong products", "Take another machine")]
    return []
