"""/page/look: how likely each token of an answer was, and what the layers had at one of them (docs/looking.md)."""

from __future__ import annotations
