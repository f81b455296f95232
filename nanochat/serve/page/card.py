"""/page/card: what was recorded of a model's making."""

from __future__ import annotations

import dataclasses
from typing import Any

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool

from nanochat.hub.ancestry import ancestry
from nanochat.hub.card_rows import scores, sizes, trained
from nanochat.serve.page.models import Models


def routes(models: Models) -> APIRouter:
    router = APIRouter(prefix="/page", include_in_schema=False)

    @router.get("/card")
    async def card(model: str | None = None) -> dict[str, Any]:
        entry = await models.find(model)
        if entry.folder is None:
            entry = await run_in_threadpool(models.own_on_disk)
        made = await run_in_threadpool(ancestry, entry.stage, entry.tag, entry.folder)
        if entry.folder is None:  # it is not on the disk, but it is here
            own = models.own.engine.model
            made = [dataclasses.replace(made[-1], config=own.config.to_dict(), params=own.num_params())]
        where = {"id": entry.id, "stage": entry.stage, "tag": entry.tag, "step": entry.step}
        # How this machine's trainings went is nothing for strangers, as with /train.
        rows = list(trained(made)) if models.picker else []
        return {**where, **sizes(made[-1]), "trained": rows, "scores": scores(made[-1])}

    return router
