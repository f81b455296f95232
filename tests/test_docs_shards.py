"""Where a page downloads text and then pretrains, it downloads as much as that pretraining reads."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from nanochat import scale
from nanochat.commands.tok_train import Config as TokenizerConfig
from nanochat.pipeline.recipes import FEWEST_SHARDS, shards_needed
from nanochat.train import BaseConfig

ROOT = Path(__file__).parents[1]
AS_THE_SEED = 450  # what the seed downloads for its d26, which is more than enough


def flag(name: str, line: str, otherwise: int) -> int:
    found = re.search(rf"--{name}[= ](\d+)", line)
    return int(found[1]) if found else otherwise


@dataclass
class Walk:
    shards: int
    depth: int
    vocab_size: int

    @property
    def needed(self) -> int:
        shape = scale.shape(self.depth, self.vocab_size, scale.default_seq_len(self.depth))
        return shards_needed(scale.tokens(shape, BaseConfig().target_param_data_ratio), self.vocab_size)


def walks(text: str) -> list[Walk]:
    """Each pretraining of the page with a depth, with the tokenizer and the download before it."""
    found, shards, vocab_size = [], 0, TokenizerConfig().vocab_size
    for line in re.split(r"\n|; ", text):
        if download := re.search(r"python -m nanochat\.dataset -n (\d+)", line):
            shards = int(download[1])
        if "scripts.tok_train" in line:
            vocab_size = flag("vocab_size", line, TokenizerConfig().vocab_size)
        if shards and ("scripts.base_train" in line or "dev/slurm.sbatch --depth" in line):
            found.append(Walk(shards, flag("depth", line, 0), vocab_size))
    return found


@pytest.mark.parametrize(("page", "depths"), [("docs/seed.md", [20, 26]), ("docs/quickstart.md", [26, 26])])
def test_a_page_downloads_what_its_pretraining_reads(page: str, depths: list[int]) -> None:
    found = walks("\n".join(re.findall(r"^```bash\n(.*?)^```$", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)))
    assert [walk.depth for walk in found] == depths
    for walk in found:
        assert walk.shards == walk.needed or AS_THE_SEED == walk.shards > walk.needed, (walk, walk.needed)
        assert walk.needed > FEWEST_SHARDS


def test_the_job_for_clusters_names_what_its_pretraining_reads() -> None:
    head = (ROOT / "dev" / "slurm.sbatch").read_text().partition("#SBATCH")[0]
    depth = flag("depth", head, 0)
    [shards] = re.findall(r"nanochat\.dataset -n (\d+)", head)
    assert Walk(int(shards), depth, TokenizerConfig().vocab_size).needed == int(shards)
