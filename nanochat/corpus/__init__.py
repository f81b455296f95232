"""Text on disk: corpora by name or path, your own files, downloads, as shards."""

from __future__ import annotations

from nanochat.corpus.corpora import prepare
from nanochat.corpus.hub import repo_parquets
from nanochat.corpus.info import CorpusInfo
from nanochat.corpus.names import load_info
from nanochat.corpus.shards import Shards
from nanochat.corpus.textfiles import documents, text_files

__all__ = ["CorpusInfo", "Shards", "documents", "load_info", "prepare", "repo_parquets", "text_files"]
