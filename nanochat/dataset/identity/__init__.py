"""Conversations in which an assistant is someone: from templates without a network, or written by another model.

`conversations` makes them from templates, `extend` has them written through an OpenAI-compatible endpoint
(docs/identity.md).
"""

from __future__ import annotations

from nanochat.dataset.identity.endpoint import Endpoint
from nanochat.dataset.identity.meter import Meter
from nanochat.dataset.identity.persona import Persona, conversations, save
from nanochat.dataset.identity.writing import extend

__all__ = ["Endpoint", "Meter", "Persona", "conversations", "extend", "save"]
