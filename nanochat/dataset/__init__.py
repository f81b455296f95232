"""Where text comes from: corpora by name or path, as shards on disk, packed into batches."""

from __future__ import annotations

from nanochat.dataset.corpora import prepare
from nanochat.dataset.hub import repo_parquets
from nanochat.dataset.info import CorpusInfo, load_info
from nanochat.dataset.shards import Shards
from nanochat.dataset.textfiles import documents, text_files

__all__ = ["CorpusInfo", "Shards", "documents", "load_info", "prepare", "repo_parquets", "text_files"]
