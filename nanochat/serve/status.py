"""How the server is: GET /health and /stats."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from nanochat.serve.answers import Answers
from nanochat.serve.info import Defaults, ModelInfo


def routes(answers: Answers, info: ModelInfo, defaults: Defaults) -> APIRouter:
    router = APIRouter()

    def free() -> int:
        return sum(not replica.full for replica in answers.replicas)

    @router.get("/health", response_model=dict[str, Any], responses={503: {"description": "The server is ending"}})
    async def health(request: Request) -> Response:
        ready = not answers.draining
        found: dict[str, Any] = {"status": "ok" if ready else "draining", "ready": ready}
        if request.scope["known"]:  # a stranger learns nothing about the model
            found |= {
                "model": asdict(info),
                "defaults": asdict(defaults),
                "num_gpus": len(answers.replicas),
                "available_workers": free(),
            }
        return JSONResponse(found, 200 if ready else 503)

    @router.get("/stats")
    async def stats() -> dict[str, Any]:
        replicas = answers.replicas
        return {
            **asdict(answers.stats),
            "total_workers": len(replicas),
            "available_workers": free(),
            "busy_workers": len(replicas) - free(),
            "workers": [{"gpu_id": replica.number, "device": replica.device} for replica in replicas],
        }

    return router
