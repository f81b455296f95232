"""/page/models and /page/count: which models there are, and how long a text is for one."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from nanochat.serve.openai_route import aside
from nanochat.serve.page.bodies import CountBody
from nanochat.serve.page.models import Models
from nanochat.serve.page.route import PageRoute


def routes(models: Models) -> APIRouter:
    router = APIRouter(prefix="/page", include_in_schema=False, route_class=PageRoute)

    @router.get("/models")
    async def listed() -> dict[str, Any]:
        told = [
            {
                "id": entry.id,
                "stage": entry.stage,
                "tag": entry.tag,
                "step": entry.step,
                "bytes": entry.bytes,
                "written": entry.written,
                "own": entry.id == models.own.entry.id,
                "loaded": models.is_loaded(entry),
                "chat": entry.chat,
            }
            for entry in await models.listed()
        ]
        return {"models": told, "picker": models.picker}

    @router.post("/count")
    async def count(body: CountBody) -> dict[str, int]:
        """How long a text is for a model, which need not be loaded for that, beside how much it can see."""
        tokenizer, window = await models.reader(await models.find(body.model))
        return {"tokens": len(await aside(len(body.text), lambda: tokenizer.encode(body.text))), "window": window}

    return router
