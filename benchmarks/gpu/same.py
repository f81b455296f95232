"""A training on the device against the same on the CPU, and one that was killed against one that was not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gpu.sizes import Sizes

ROOT = Path(__file__).parents[2]
NOISE = 0.02  # of the bits per byte: differences up to this always count as equal
RESUMED = 0.005  # the same for a run that was killed, which must see the same text
TRAIN = """
import json, sys
from nanochat.train import BaseConfig, train_base
s = train_base(BaseConfig(**json.loads(sys.argv[1])))
print(json.dumps({"loss": s.loss, "seconds": s.seconds, **s.val}))
"""
PREPARE = """
import sys
from importlib.util import module_from_spec, spec_from_file_location
if sys.argv[1]:
    spec = spec_from_file_location("nanochat.tokenizer._bpe", sys.argv[1])
    sys.modules[spec.name] = module = module_from_spec(spec)
    spec.loader.exec_module(module)
from nanochat.corpus.corpora import make_tinyworld
from nanochat.corpus.shards import Shards
from nanochat.paths import tokenizer_dir
from nanochat.tokenizer import SPECIAL_TOKENS, Tokenizer, train_bpe
from nanochat.tokenizer.native import bpe
make_tinyworld(mb=1)
if bpe:
    ranks = train_bpe(Shards.open("tinyworld", "train"), 512 - len(SPECIAL_TOKENS))
else:
    ranks = {bytes([byte]): byte for byte in range(256)}
Tokenizer(ranks).save(tokenizer_dir())
"""


def pieces(sizes: Sizes) -> dict[str, Callable[[], dict[str, Any]]]:
    return {"as on the CPU": partial(as_on_cpu, sizes), "killed and resumed": partial(killed, sizes)}


@contextmanager
def base_folder() -> Iterator[Path]:
    """NANOCHAT_BASE_DIR with the tiny world, and a tokenizer trained on it if the native code is available."""
    with tempfile.TemporaryDirectory(prefix="nanochat-same-") as folder:
        base = Path(folder)
        subprocess.run(
            [sys.executable, "-c", PREPARE, build_native(base)], env=_environment(base), cwd=ROOT, check=True
        )
        yield base


def build_native(folder: Path) -> str:
    """The native tokenizer's file, compiled into `folder`; "" where that is not needed or not possible."""
    from importlib.util import find_spec

    compiler = shutil.which("c++") or shutil.which("g++")
    if find_spec("nanochat.tokenizer._bpe") or not find_spec("nanobind") or not compiler:
        return ""
    import nanobind

    source = Path(nanobind.source_dir())
    out = folder / f"_bpe{sysconfig.get_config_var('EXT_SUFFIX')}"
    includes = [nanobind.include_dir(), source.parent / "ext/robin_map/include", sysconfig.get_paths()["include"]]
    flags = ["-std=c++20", "-O2", "-shared", "-fPIC", "-pthread", "-fvisibility=hidden", "-fno-strict-aliasing"]
    files = [ROOT / "csrc/module.cpp", source / "nb_combined.cpp"]
    command = [compiler, *flags, *(f"-I{path}" for path in includes), *map(str, files), "-o", str(out)]
    return str(out) if subprocess.run(command).returncode == 0 else ""


def _environment(base: Path) -> dict[str, str]:
    return {**os.environ, "NANOCHAT_BASE_DIR": str(base), "PYTHONUNBUFFERED": "1"}


class Training:
    """base_train in a process of its own. on: the device."""

    def __init__(self, sizes: Sizes, base: Path, tag: str, on: str, **settings: Any) -> None:
        self.tag, self.base = tag, base
        config = {
            "depth": sizes.same_depth,
            "dataset": "tinyworld",
            "max_seq_len": sizes.same_seq_len,
            "total_batch_size": sizes.same_batch,
            "num_iterations": sizes.same_steps,
            "eval_every": -1,
            "eval_tokens": 16 * sizes.same_batch,
            "save_every": -1,
            "model_tag": tag,
            "device": on,
            "compile": "off",  # which takes longer than these trainings; compiled gradients are checked by `correct`
            **settings,
        }
        # Three at once: with all cores for each they took eight times as long.
        threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // 3))}
        self.process = subprocess.Popen(
            [sys.executable, "-c", TRAIN, json.dumps(config)],
            env=_environment(base) | threads, cwd=ROOT, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def result(self) -> dict[str, Any]:
        """Its smoothed training loss, bits per byte on validation text, and seconds of training."""
        out, _ = self.process.communicate()
        if self.process.returncode:
            raise RuntimeError(f"the training {self.tag} ended with code {self.process.returncode}")
        found: dict[str, Any] = json.loads(out.splitlines()[-1])
        return found

    def has_saved(self, step: int) -> bool:
        return (self.base / f"base_checkpoints/{self.tag}/step_{step:06d}").exists()

    def weights(self) -> str:
        """SHA-256 of the newest checkpoint's weights."""
        folder = max((self.base / f"base_checkpoints/{self.tag}").glob("step_*"))
        manifest = json.loads((folder / "manifest.json").read_text())
        return str(manifest["files"]["model.safetensors"]["sha256"])


def as_on_cpu(sizes: Sizes) -> dict[str, Any]:
    """Bits per byte after the same steps; the noise is what another seed of the weights changes on the CPU."""
    with base_folder() as base:
        runs = {
            "device": Training(sizes, base, "device", sizes.device),
            "cpu": Training(sizes, base, "cpu", "cpu", dtype="float32"),
            "other seed": Training(sizes, base, "seed", "cpu", dtype="float32", seed=43),
        }
        found = {name: run.result() for name, run in runs.items()}
    here, there, other = (found[name]["val_bpb"] for name in runs)
    noise = max(abs(there - other), NOISE * there)
    difference = here - there
    return {
        **found,
        "steps": sizes.same_steps,
        "noise": noise,
        "difference": difference,
        "ok": abs(difference) <= noise,
    }


def killed(sizes: Sizes) -> dict[str, Any]:
    """Compare a run killed by kill -9 after the second of four checkpoints and resumed with an uninterrupted one."""
    every = sizes.same_steps // 4
    with base_folder() as base:
        whole = Training(sizes, base, "whole", sizes.device)
        expected = whole.result()
        first = Training(sizes, base, "killed", sizes.device, save_every=every)
        while not first.has_saved(2 * every):
            if first.process.poll() is not None:
                raise RuntimeError("the training ended before it could be killed")
            time.sleep(0.02)
        first.process.kill()
        first.process.communicate()
        resumed = Training(sizes, base, "killed", sizes.device, save_every=every, resume=True)
        found = resumed.result()
        same = resumed.weights() == whole.weights()
    difference = found["val_bpb"] - expected["val_bpb"]
    ok = same or abs(difference) <= RESUMED * expected["val_bpb"]
    return {"whole": expected, "resumed": found, "same_bits": same, "difference": difference, "ok": ok}
