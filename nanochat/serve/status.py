"""How the server is: GET /health and /stats."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter

from nanochat.serve.answers import Answers
from nanochat.serve.info import Defaults, ModelInfo


def routes(answers: Answers, info: ModelInfo, defaults: Defaults) -> APIRouter:
    router = APIRouter()

    @router.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "ready": True, "model": asdict(info), "defaults": asdict(defaults)}

    @router.get("/stats")
    async def stats() -> dict[str, Any]:
        return asdict(answers.stats)

    return router
