"""/page/feedback: an answer is marked good or bad, or edited into what it should have been, to be learnt later."""

from __future__ import annotations

import asyncio
import shlex
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, HTTPException
from pydantic import Field, model_validator

from nanochat.console import UserError
from nanochat.conversation import Conversation, Message
from nanochat.serve.access import Access
from nanochat.serve.info import ModelInfo
from nanochat.serve.line import clean
from nanochat.serve.page.bodies import Asked
from nanochat.serve.page.feedback_file import Counts, counts, feedback_path, mark
from nanochat.serve.page.route import PageRoute
from nanochat.serve.schema import Text
from nanochat.serve.shown import Reading


class FeedbackBody(Asked):
    """An answer and what was said before it. Neither rating nor correction: what was said of it is taken back.

    id: the page's, of the answer. correction: as the page shows an answer, its tool calls in brackets.
    """

    id: Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
    rating: Literal["good", "bad"] | None = None
    correction: Text | None = None

    @model_validator(mode="after")
    def _is_of_an_answer(self) -> Self:
        if self.mode != "chat" or self.messages[-1].role != "assistant":
            raise ValueError("the last message must be the assistant's")
        if self.correction is not None and not clean(self.correction).strip():
            raise ValueError("the correction is empty: take the mark back instead")
        return self

    def line(self) -> dict[str, Any] | None:
        """For the file. Of the whole conversation this answer alone is learnt: the earlier ones may be bad."""
        if self.rating is None and self.correction is None:
            return None
        *before, answer = self.conversation().messages
        before = [replace(message, learnt=message.role != "assistant") for message in before]
        given = {}
        if self.correction is not None:
            given = {"given": answer.to_dict()["content"]}
            answer = Message("assistant", Reading().parts(clean(self.correction)))
        learnt = Conversation((*before, answer)).to_dict()
        return {**learnt, "model": self.model, "rating": self.rating, **given, "time": round(time.time(), 3)}


def routes(access: Access, info: ModelInfo) -> APIRouter:
    """info: the model that the commands teach."""
    router = APIRouter(prefix="/page", include_in_schema=False, route_class=PageRoute)
    allowed = bool(access.key or access.loopback)

    async def told(work: Callable[[], Counts]) -> dict[str, Any]:
        if not allowed:  # anybody who reaches the server could fill the disk, and teach the model
            raise HTTPException(
                403, "feedback is only kept on a server with a key, or that serves its own machine alone"
            )
        try:
            found = await asyncio.to_thread(work)
        except UserError as error:
            raise HTTPException(409, str(error)) from None
        path = str(feedback_path())
        return {"path": path, "commands": _commands(info, path), **asdict(found)}

    @router.get("/feedback")
    async def kept() -> dict[str, Any]:
        return await told(counts)

    @router.post("/feedback")
    async def given(body: FeedbackBody) -> dict[str, Any]:
        return await told(lambda: mark(body.id, body.line()))

    return router


def _commands(info: ModelInfo, path: str) -> list[str]:
    finetune = ["nanochat", "finetune", "--from", f"{info.stage}:{info.tag}", "--data", path]
    where = ["--source", info.stage, "--model_tag", info.tag, "--save_tag", f"{info.tag}-feedback"]
    return [shlex.join(finetune), shlex.join(["nanochat", "chat_sft", *where, "--data", path])]
