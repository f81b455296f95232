"""Conversations that give an assistant an identity: from templates without a network, or by another model.

`conversations` makes them from templates, `extend` has them written through an OpenAI-compatible endpoint
(docs/identity.md).
"""

from __future__ import annotations

from nanochat.synthetic.identity.endpoint import Endpoint
from nanochat.synthetic.identity.meter import Meter
from nanochat.synthetic.identity.persona import Persona, conversations, save
from nanochat.synthetic.identity.writing import extend

__all__ = ["Endpoint", "Meter", "Persona", "conversations", "extend", "save"]
