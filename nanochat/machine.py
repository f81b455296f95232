"""The machine: device, dtype, ranks and peak FLOP/s. torch is imported only when needed."""

from __future__ import annotations

import atexit
import functools
import json
import math
import os
import platform
import re
import secrets
import sys
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from nanochat import gpus
from nanochat.console import UserError

if TYPE_CHECKING:
    import torch
    import torch.distributed as dist
    from torch.distributed import Store  # type: ignore[attr-defined]

DTYPES = ("float32", "bfloat16", "float16")

# How long ranks wait for one that downloads, or verifies or writes a checkpoint: NCCL's 10 minutes are too short.
PATIENCE = timedelta(hours=1)
MEETING = 0.02  # seconds between two looks at what other ranks left
TOPOLOGY = Path("/sys/devices/system/cpu")

_host_group: dist.ProcessGroup | None = None  # beside a main group of GPUs


@dataclass(frozen=True)
class Ranks:
    """This process's place among all (from torchrun's environment)."""

    rank: int = 0
    local_rank: int = 0
    world: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def ranks() -> Ranks:
    env = os.environ
    return Ranks(int(env.get("RANK", 0)), int(env.get("LOCAL_RANK", 0)), int(env.get("WORLD_SIZE", 1)))


def pod_url(port: int) -> str:
    """Where RunPod's proxy shows a port of this pod; "" on any other machine."""
    pod = os.environ.get("RUNPOD_POD_ID", "")
    return f"https://{pod}-{port}.proxy.runpod.net" if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", pod) else ""


@dataclass(frozen=True)
class Machine:
    """Where and in which precision this process computes."""

    device: torch.device
    dtype: torch.dtype
    ranks: Ranks

    @property
    def name(self) -> str:
        import torch

        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return cpu_name() if self.device.type == "cpu" else self.device.type

    @property
    def memory(self) -> int:
        """Bytes of the GPU's memory, or of the machine's."""
        import torch

        if self.device.type == "cuda":
            return torch.cuda.get_device_properties(self.device).total_memory
        return memory_bytes()


def setup(device: str = "auto", dtype: str = "auto", deterministic: bool = False) -> Machine:
    """Choose device and dtype and join the process group when torchrun started several ranks.

    device: auto (cuda, then mps, then cpu) or a torch device name. dtype: auto, or one of DTYPES;
    NANOCHAT_DTYPE decides when it is auto. deterministic: only algorithms that give the same bits every time.
    """
    import torch
    import torch.distributed as dist

    me = ranks()
    set_up_allocator()
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
        torch.use_deterministic_algorithms(True)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if device.partition(":")[0] not in ("cpu", "cuda", "mps"):
        raise UserError(f"cannot use device {device!r}", "Choose --device=auto, cpu, cuda, cuda:1 or mps")
    try:
        where = torch.device(device)
        if where.type == "cuda":
            if not torch.cuda.is_available():
                raise RuntimeError("torch finds no CUDA GPU")
            where = torch.device("cuda", me.local_rank if where.index is None else where.index)
            torch.cuda.set_device(where)
            torch.set_float32_matmul_precision("high")
        torch.empty(1, device=where)
    except (RuntimeError, AssertionError, AttributeError) as error:  # a torch without CUDA lacks its functions
        first = str(error).splitlines()[0]
        raise UserError(f"cannot use device {device!r}: {first}", "Choose --device=cpu, or leave it out") from None
    if me.world > 1 and not dist.is_initialized():
        join("nccl" if where.type == "cuda" else "gloo")
    if where.type == "cpu":
        # Read at the first product. On texts of all lengths, cached kernels of 1,024 shapes took 0.6 GB and more.
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
        share_cores(me, measure=not deterministic)
        keep_freed_memory()
    return Machine(where, resolve_dtype(where, dtype), me)


def join(backend: str) -> None:
    """Join the process group of the ranks named by the environment, until this process ends.

    gloo's threads must end before the interpreter, or they abort it (pytorch #179291). NCCL's group is not destroyed:
    that would wait for the other ranks, which, after an error on this rank, wait for it in a collective.
    """
    import torch.distributed as dist

    # Imported before the group exists: its default arguments would otherwise hold the group, and keep its threads
    # alive after destroy_process_group.
    import torch.distributed.nn.functional  # noqa: F401
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    me = ranks()
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        store = meet(TCPStore(*_meeting_point(), is_master=False, timeout=PATIENCE), me)
        dist.init_process_group(backend, store=store, rank=me.rank, world_size=me.world, timeout=PATIENCE)
    else:
        dist.init_process_group(backend, timeout=PATIENCE)
    if backend == "gloo":
        atexit.register(lambda: dist.is_initialized() and dist.destroy_process_group())
        return
    global _host_group
    try:
        _host_group = dist.new_group(backend="gloo", timeout=PATIENCE)
    except RuntimeError as error:
        raise UserError(
            f"the ranks cannot reach each other by gloo, which carries what the hosts tell: {error}",
            "Set GLOO_SOCKET_IFNAME to the network interface between the nodes",
        ) from None
    atexit.register(lambda: dist.is_initialized() and dist.destroy_process_group(_host_group))


def host_group() -> dist.ProcessGroup | None:
    """The group for tensors in main memory and objects, which must not wait for a GPU's work; None: the main one."""
    return _host_group


def set_up_allocator() -> None:
    """Let CUDA's allocator grow its pieces of memory instead of taking new ones, so that sizes that change leave no
    holes. It is read when CUDA starts. What the environment says stays."""
    known = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
    if sys.platform == "linux" and not any(name in os.environ for name in known):
        # The name from torch 2.9 on.
        os.environ[known[0]] = "expandable_segments:True"


def meet(store: Store, me: Ranks) -> Store:
    """A part of torchrun's store that only these ranks know the name of.

    torchrun keeps its store when it starts the ranks anew. What dead ranks left there would send the new ones to closed
    ports (pytorch #135712), and its count of restarts differs between nodes. So each rank leaves a new word. The first
    one repeats the words it finds, beside a name, until all have answered with that name.
    """
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]

    word = secrets.token_hex(8)
    keys = [f"nanochat/meet/{rank}" for rank in range(me.world)]
    if me.is_main:
        while said := [found.decode() for found in store.multi_get(keys[1:])]:
            if set(said) == {word}:
                break
            store.set(keys[0], json.dumps([word, *said]))
            time.sleep(MEETING)
        return PrefixStore(word, store)
    store.set(keys[me.rank], word)
    while (told := json.loads(store.get(keys[0])))[me.rank : me.rank + 1] != [word]:
        time.sleep(MEETING)
    store.set(keys[me.rank], told[0])
    return PrefixStore(told[0], store)


def open_store(me: Ranks) -> Store | None:
    """A connection of one's own to the key-value store that the ranks met by, for threads beside the training. None for
    a single rank."""
    if me.world == 1:
        return None
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    return TCPStore(*_meeting_point(), is_master=False, wait_for_workers=False, timeout=timedelta(minutes=1))


def _meeting_point() -> tuple[str, int]:
    return os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])


def share_cores(me: Ranks, measure: bool = True) -> None:
    """Split the cores of one CPU among its ranks; torchrun would give each rank one thread, whatever their number.

    A single rank gets a thread per core, or per hardware thread where that is faster. measure: whether to test this.
    """
    import torch

    local_world = int(os.environ.get("LOCAL_WORLD_SIZE", me.world))
    if local_world > 1:
        torch.set_num_threads(max(1, cpu_count() // local_world))
    elif "OMP_NUM_THREADS" not in os.environ:
        choices = {core_count(), cpu_count()}
        torch.set_num_threads(fastest_threads(choices) if measure and len(choices) > 1 else min(choices))


def fastest_threads(choices: set[int]) -> int:
    """The number of threads that is fastest at products and exponentials of matrices as in a small model."""
    import torch

    a, b = torch.randn(1024, 256), torch.randn(256, 1024)
    best = dict.fromkeys(choices, math.inf)
    for _ in range(5):
        for threads in choices:
            torch.set_num_threads(threads)
            (a @ b).exp()  # wakes new threads up
            start = time.perf_counter()
            for _ in range(4):
                (a @ b).exp()
            best[threads] = min(best[threads], time.perf_counter() - start)
    return min(best, key=lambda threads: best[threads])


def resolve_dtype(device: torch.device, dtype: str = "auto") -> torch.dtype:
    """The compute dtype: bfloat16 where the hardware multiplies it natively, else float32."""
    import torch

    name = os.environ.get("NANOCHAT_DTYPE", "") if dtype == "auto" else dtype
    if name:
        if name not in DTYPES:
            known = ", ".join(DTYPES)
            raise UserError(f"unknown dtype {name!r}", f"Set --dtype to {known}", f"Set NANOCHAT_DTYPE to {known}")
        return getattr(torch, name)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float32
    if device.type == "cpu" and {"avx512_bf16", "amx_bf16", "bf16"} & cpu_flags():
        return torch.bfloat16
    return torch.float32


@functools.cache
def cpu_flags() -> set[str]:
    try:
        with open("/proc/cpuinfo") as f:
            line = next((x for x in f if x.startswith(("flags", "Features"))), "")
    except OSError:
        return set()
    return set(line.partition(":")[2].split())


@functools.cache
def cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as f:
            line = next((x for x in f if x.startswith("model name")), "")
    except OSError:
        line = ""
    return line.partition(":")[2].strip() or platform.processor() or platform.machine()


def core_count() -> int:
    """Cores this process may use, where a core with two hardware threads counts once (Linux; else as cpu_count)."""
    if not hasattr(os, "sched_getaffinity"):
        return cpu_count()
    try:
        cores = {(TOPOLOGY / f"cpu{i}/topology/thread_siblings_list").read_text() for i in os.sched_getaffinity(0)}
    except OSError:
        return cpu_count()
    return len(cores)


def cpu_count() -> int:
    """Hardware threads this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_bytes() -> int:
    """Main memory of this machine in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@functools.cache
def _measured_peak(device_type: str, dtype: str, size: int) -> float:
    import torch

    a = torch.randn(size, size, device=device_type).to(getattr(torch, dtype))
    best = 0.0
    for _ in range(20):
        start = time.perf_counter()
        (a @ a)[0, 0].item()
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best


def peak_flops(machine: Machine, fp8: bool = False) -> float:
    """Matmul peak of one device in FLOP/s: the data sheet's for a known GPU, else measured here. fp8: in float8, where
    the card is known; elsewhere twice the other, as on every card that has it."""
    import torch

    if machine.device.type == "cuda" and machine.dtype != torch.float32:
        gpu = gpus.find(machine.name)
        if gpu:
            return gpu.fp8_peak if fp8 and gpu.fp8_peak else gpu.peak
    if fp8:
        return 2 * peak_flops(machine)
    size = 1024 if machine.device.type == "cpu" else 4096
    return _measured_peak(machine.device.type, str(machine.dtype).removeprefix("torch."), size)


def describe(machine: Machine) -> str:
    world = f" x {machine.ranks.world}" if machine.ranks.world > 1 else ""
    return f"{machine.device.type} ({machine.name}){world}, {str(machine.dtype).removeprefix('torch.')}"


def keep_freed_memory() -> None:
    """Keep freed large buffers mapped (glibc): unmapping and faulting them in costs as much as the math on a CPU."""
    import ctypes

    if platform.libc_ver()[0] != "glibc":
        return
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # mallopt(3)
    libc = ctypes.CDLL(None)
    if not libc.mallopt(mmap_threshold, 1 << 30):  # refused before glibc 2.35
        libc.mallopt(mmap_threshold, 32 << 20)
    libc.mallopt(trim_threshold, (1 << 31) - 1)
    libc.mallopt(top_pad, 64 << 20)


def release_memory() -> None:
    """Return free memory to the system (glibc): compiling leaves more than a hundred megabytes behind."""
    import ctypes
    import gc

    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def has_compiler() -> bool:
    """Whether torch.compile can build its kernels here (on a GPU, Triton needs a C compiler for its launchers)."""
    import shutil

    return any(shutil.which(c) for c in (os.environ.get("CXX", "g++"), "g++", "clang++"))
