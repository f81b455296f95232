"""Text on disk: corpora by name or path, your own files, downloads, as shards."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nanochat.corpus.corpora import check_corpus, import_text, prepare
from nanochat.corpus.hub import repo_parquets
from nanochat.corpus.info import CorpusInfo, find_info
from nanochat.corpus.names import HUB_CORPORA, TINYWORLD, corpus_name, load_info
from nanochat.corpus.shards import Shards
from nanochat.corpus.textfiles import documents, text_files, text_size
from nanochat.doors import lazy

if TYPE_CHECKING:
    from nanochat.corpus.decoding import PARQUET_MAGIC, head_of, read_text
    from nanochat.corpus.importing import How
    from nanochat.corpus.jsonrows import json_rows
    from nanochat.corpus.messages import conversation_of, marked_bad
    from nanochat.corpus.rows import parquet_rows
    from nanochat.corpus.tally import Tally

__all__ = [
    "HUB_CORPORA",
    "PARQUET_MAGIC",
    "TINYWORLD",
    "CorpusInfo",
    "How",
    "Shards",
    "Tally",
    "check_corpus",
    "conversation_of",
    "corpus_name",
    "documents",
    "find_info",
    "head_of",
    "import_text",
    "json_rows",
    "load_info",
    "marked_bad",
    "parquet_rows",
    "prepare",
    "read_text",
    "repo_parquets",
    "text_files",
    "text_size",
]

__getattr__ = lazy(
    __name__,
    {
        "decoding": "PARQUET_MAGIC head_of read_text",
        "importing": "How",
        "jsonrows": "json_rows",
        "messages": "conversation_of marked_bad",
        "rows": "parquet_rows",
        "tally": "Tally",
    },
)
