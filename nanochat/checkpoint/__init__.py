"""The checkpoint folder: written whole or not at all, verified by size and SHA-256, found by stage, tag and step."""

from nanochat.checkpoint.folder import (
    FORMAT_VERSION,
    Manifest,
    create,
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

__all__ = [
    "FORMAT_VERSION",
    "Manifest",
    "create",
    "find",
    "is_whole",
    "lock_file",
    "prune",
    "read_manifest",
    "set_aside",
    "steps",
    "tags",
    "verify",
]
