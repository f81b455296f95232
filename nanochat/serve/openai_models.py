"""GET /v1/models: the one model that answers."""

from __future__ import annotations

import time

from fastapi import APIRouter

from nanochat.serve.answers import Answers
from nanochat.serve.info import ModelInfo
from nanochat.serve.openai_errors import ApiError, ErrorReply
from nanochat.serve.openai_replies import ModelList, ModelReply
from nanochat.serve.openai_route import OpenAIRoute

UNKNOWN = {"model": ErrorReply, "description": "There is no such model"}
REFUSED = {"model": ErrorReply, "description": "The request cannot be answered"}


def model_id(info: ModelInfo) -> str:
    return f"{info.stage}-{info.tag}"


def routes(answers: Answers, info: ModelInfo) -> APIRouter:
    router = APIRouter(route_class=OpenAIRoute, tags=["openai"])
    model = ModelReply(
        id=model_id(info),
        object="model",
        created=int(time.time()),
        owned_by="nanochat",
        max_model_len=answers.engine.window,
    )

    @router.get("/v1/models", responses={"4XX": REFUSED})
    async def models() -> ModelList:
        return ModelList(object="list", data=[model])

    @router.get("/v1/models/{model_id:path}", responses={404: UNKNOWN, "4XX": REFUSED})
    async def one_model(model_id: str) -> ModelReply:
        if model_id != model.id:
            raise ApiError(f"there is no such model, only {model.id}", "model", "model_not_found", 404)
        return model

    return router
