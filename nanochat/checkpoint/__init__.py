"""The checkpoint folder: written whole or not at all, verified by size and SHA-256, found by stage, tag and step."""

from nanochat.checkpoint.folder import (
    FORMAT_VERSION,
    Manifest,
    create,
    faults,
    find,
    is_whole,
    lock_file,
    prune,
    read_manifest,
    set_aside,
    steps,
    tags,
    verify,
)
from nanochat.checkpoint.tensors import Stored, read_header, require_tensors

__all__ = [
    "FORMAT_VERSION",
    "Manifest",
    "Stored",
    "create",
    "faults",
    "find",
    "is_whole",
    "lock_file",
    "prune",
    "read_header",
    "read_manifest",
    "require_tensors",
    "set_aside",
    "steps",
    "tags",
    "verify",
]
