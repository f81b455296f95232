"""Race our packing of documents into rows against upstream's: share of the tokens that are lost, and rows a second.

Both pack the same documents, already tokenised, in fresh processes on one thread; CPU time is measured. Every token is
replaced by its position in the text, so that a row shows which tokens it holds, even if words repeat. Upstream
(karpathy/nanochat) runs its own code, from a checkout named by --peer.

    python -m benchmarks.packing --json result.json --peer ../nanochat
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

ROWS = 16  # per step
BOS = 0
PEER_FILE = "nanochat/dataloader.py"


@dataclass
class Config:
    mb: float = 40
    """Text to pack, at most what the training shards hold."""
    vocab: int = 32768
    """Tokens of the tokenizer, which learns them on this text."""
    seq_lens: tuple[int, ...] = (512, 1024, 2048)
    """Lengths of a row in tokens."""
    runs: int = 3
    """Fresh processes of each; the median speed counts."""
    peer: Path | None = None
    """Checkout of karpathy/nanochat."""
    data: Path | None = None
    """Folder of parquet shards (default: local/debian-english under NANOCHAT_HUB_DIR)."""
    json: Path | None = None
    """Write the results to this file."""


class Documents:
    """Tokenised documents: BOS, then for each of a document's tokens its position in the whole text."""

    def __init__(self, file: str):
        import numpy as np

        self._starts = np.load(file)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        import numpy as np

        ids = np.arange(self._starts[index], self._starts[index + 1], dtype=np.uint32)
        ids[0] = BOS
        return ids

    def number(self, ids: Sequence[int]) -> int:
        """Which document begins with these tokens."""
        return int(self._starts.searchsorted(ids[1], side="right")) - 1

    def rows(self, seq_len: int) -> int:
        """Rows to make: half of the documents would fill them if nothing were lost."""
        return max(ROWS, int(self._starts[-1]) // 2 // (seq_len + 1) // ROWS * ROWS)

    def cropped(self, used: list[np.ndarray], rows: list[np.ndarray]) -> float:
        """Share of the tokens of the `used` documents that are missing in the rows, counting repeated use."""
        import numpy as np

        due, seen = (np.bincount(np.concatenate(part, None), minlength=self._starts[-1]) for part in (used, rows))
        due[BOS] = 0
        return float(np.maximum(due - seen, 0).sum() / due.sum())


def first_texts(data: Path | None, mb: float) -> list[str]:
    """Training documents of `mb` MB together, or all there are."""
    from benchmarks.tokenizer import load_texts

    found: list[str] = []
    missing = mb * 1e6
    for text in load_texts(data, "train"):
        found.append(text)
        missing -= len(text.encode())
        if missing <= 0:
            break
    return found


def save_documents(config: Config, file: Path) -> tuple[int, int]:
    """Tokenise the text, and save where its documents begin in `file`; documents and tokens."""
    import numpy as np

    from nanochat.tokenizer import SPECIAL_TOKENS, Tokenizer, train_bpe

    texts = first_texts(config.data, config.mb)
    tokenizer = Tokenizer(train_bpe(texts, config.vocab - len(SPECIAL_TOKENS)))
    starts = np.cumsum([0, *(1 + len(ids) for ids in tokenizer.encode_arrays(texts))])
    np.save(file, starts)
    return len(texts), int(starts[-1])


def pack_ours(file: str, seq_len: int) -> dict[str, Any]:
    """Measure our loader in this process: see `race`."""
    import torch

    from nanochat.feed import Loader, packing
    from nanochat.machine import Ranks

    torch.set_num_threads(1)
    documents = Documents(file)
    arrays = [documents[index] for index in range(len(documents))]

    class Source:
        def __len__(self) -> int:
            return len(arrays)

        def get(self, indices: list[int]) -> list[packing.Example]:
            return [packing.Example(arrays[index]) for index in indices]

    loader = Loader(Source(), seq_len, ROWS, ROWS, Ranks(), True)
    rows = documents.rows(seq_len)
    began = time.process_time()
    steps = list(itertools.islice(loader, rows // ROWS))
    seconds = time.process_time() - began

    packed = [whole_rows(step.micro[0].ids, step.micro[0].targets) for step in steps]
    used = []  # the tokens that should come from the documents taken so far
    for place, stream in steps[-1].state["streams"].items():
        begun = dict(stream["docs"])
        for number in range(stream["next"]):
            document = arrays[(int(place) + number * steps[-1].state["of"]) % len(arrays)]
            used.append(document[1 : begun.get(number, len(document))])
    due = sum(map(len, used))
    return {
        "seconds": seconds,
        "rows": rows,
        "cropped": documents.cropped(used, packed),
        "repeated": sum(stream["repeated"] for stream in steps[-1].state["streams"].values()) / (rows * (seq_len + 1)),
        "without_beginning": sum(max(0, len(ids) - seq_len) for ids in used) / due,
        "full": all(bool((ids[:, 0] == BOS).all()) for ids in packed),
    }


def whole_rows(ids: Any, targets: Any) -> np.ndarray:
    """(B, T + 1): the last id of a row is its last target."""
    import numpy as np

    return np.concatenate([ids.numpy(), targets[:, -1:].numpy()], axis=1)


def pack_theirs(file: str, seq_len: int, peer: str) -> dict[str, Any]:
    """The same for upstream's loader; its buffer holds what it has taken but not yet used."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch

    torch.set_num_threads(1)
    documents = Documents(file)
    arrays = [documents[index] for index in range(len(documents))]
    lists = [ids.tolist() for ids in arrays]
    taken: Counter[int] = Counter()

    class Tokenized:
        """Stands in for its tokenizer: the text of a document is its number."""

        def get_bos_token_id(self) -> int:
            return BOS

        def encode(self, texts: list[str], prepend: int, num_threads: int) -> list[list[int]]:
            taken.update(map(int, texts))
            return [lists[int(text)] for text in texts]

    rows = documents.rows(seq_len)
    with tempfile.TemporaryDirectory() as folder:
        shard = Path(folder) / "shard.parquet"
        pq.write_table(pa.table({"text": [str(index) for index in range(len(documents))]}), shard, row_group_size=1024)
        module = load_peer(Path(peer), [shard, shard])
        loader = module.tokenizing_distributed_data_loader_with_state_bos_bestfit(
            Tokenized(), ROWS, seq_len, "train", device="cpu"
        )
        seconds, packed = 0.0, []
        for _ in range(rows // ROWS):
            began = time.process_time()
            ids, targets, _state = next(loader)
            seconds += time.process_time() - began
            packed.append(whole_rows(ids, targets))
        taken.subtract(documents.number(ids) for ids in loader.gi_frame.f_locals["doc_buffer"])
    return {
        "seconds": seconds,
        "rows": rows,
        "cropped": documents.cropped([arrays[index][1:] for index in taken.elements()], packed),
        "repeated": 0.0,
        "without_beginning": 0.0,
        "full": all(bool((ids[:, 0] == BOS).all()) for ids in packed),
    }


def load_peer(peer: Path, shards: list[Path]) -> ModuleType:
    """Upstream's dataloader module, with stubs for the two functions that it needs from its package."""
    package, common, dataset = (ModuleType(f"nanochat{name}") for name in ("", ".common", ".dataset"))
    setattr(common, "get_dist_info", lambda: (False, 0, 0, 1))  # noqa: B010 (a module has no such attribute)
    setattr(dataset, "list_parquet_files", lambda **_: shards)  # noqa: B010 (likewise)
    sys.modules.update({module.__name__: module for module in (package, common, dataset)})
    spec = importlib.util.spec_from_file_location("nanochat.dataloader", peer / PEER_FILE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def race(config: Config, file: Path, seq_len: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """For each packer: cropped, repeated and without_beginning as shares of tokens, rows_per_s, and whether it is full.

    cropped: tokens of used documents that are in no row. repeated: positions that repeat a document's beginning.
    without_beginning: tokens that cannot see their document's first piece, since the document exceeds a row.
    """
    from benchmarks.result import median

    calls = {"ours": f"pack_ours({str(file)!r}, {seq_len})"}
    if config.peer:
        calls["upstream"] = f"pack_theirs({str(file)!r}, {seq_len}, {str(config.peer)!r})"
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in calls}
    for _ in range(config.runs):
        for name, call in calls.items():
            code = f"import json; from benchmarks.packing import pack_ours, pack_theirs; print(json.dumps({call}))"
            done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
            runs[name].append(json.loads(done.stdout.splitlines()[-1]))
    for name, found in runs.items():
        row = found[0]
        speed = row.pop("rows") / median([run["seconds"] for run in found])
        del row["seconds"]
        yield name, {**row, "rows_per_s": speed, "tokens_per_s": speed * seq_len}


def run(config: Config) -> None:
    from benchmarks.result import BenchmarkResult
    from nanochat.console import UserError, say

    if config.peer and not (config.peer / PEER_FILE).is_file():
        raise UserError(f"{config.peer} has no {PEER_FILE}", "Give --peer a checkout of karpathy/nanochat")
    ours: dict[str, Any] = {}
    peers: dict[str, dict[str, Any]] = {"upstream": {}} if config.peer else {}
    ratio: dict[str, dict[str, float]] = {name: {} for name in peers}
    checks = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "documents.npy"
        documents, tokens = save_documents(config, file)
        say(f"{documents:,} documents, {tokens:,} tokens, medians of {config.runs} fresh processes")
        for seq_len in config.seq_lens:
            for name, row in race(config, file, seq_len):
                checks[f"{name}, T={seq_len}: every row begins with a document"] = row.pop("full")
                (ours if name == "ours" else peers[name])[f"T={seq_len}"] = row
                say(
                    f"  T={seq_len:<5} {name:<9} cropped {row['cropped']:6.2%}  repeated {row['repeated']:6.2%}  "
                    f"without their beginning {row['without_beginning']:6.2%}  {row['rows_per_s']:8,.0f} rows/s"
                )
            for name, rows in peers.items():
                mine, theirs = ours[f"T={seq_len}"], rows[f"T={seq_len}"]
                ratio[name][f"speed, T={seq_len}"] = mine["rows_per_s"] / theirs["rows_per_s"]
                ratio[name][f"text kept, T={seq_len}"] = (1 - mine["cropped"]) / (1 - theirs["cropped"])
            checks[f"ours, T={seq_len}: every token of the documents is in a row"] = (
                ours[f"T={seq_len}"]["cropped"] == 0
            )
    for name, metrics in ratio.items():
        say(f"  against {name}: " + ", ".join(f"{metric} {value:.2f}x" for metric, value in metrics.items()))
    settings = {"mb": config.mb, "vocab": config.vocab, "runs": config.runs, "documents": documents, "tokens": tokens}
    BenchmarkResult("packing", ours, peers, ratio, checks, settings).conclude(config.json)


if __name__ == "__main__":
    from nanochat.console import run_command

    run_command(Config, run, description=__doc__, prog="python -m benchmarks.packing")
