"""What the OpenAI API accepts, with its limits. Keys that are not here are ignored; null is as good as absent."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, GetCoreSchemaHandler, PlainValidator, model_validator
from pydantic_core import CoreSchema, core_schema

from nanochat.inference.request import MOST_LOGPROBS

MAX_BODY_BYTES = 4 << 20
MAX_MESSAGES = 2048
MAX_PARTS = 256  # of a message
MAX_IDS = 1 << 17  # of a prompt; more than any model's context
MAX_N = 16
MAX_PROMPTS = 256
MAX_ROWS = 256  # samples of a request: its prompts times n
MAX_TOLD = 1 << 18  # log-probabilities of a request, which are all in memory until it is answered
MAX_STOPS = 16
MAX_STOP_CHARACTERS = 256
LARGEST = (1 << 31) - 1
LARGEST_SEED = (1 << 63) - 1


def _whole(value: Any) -> Any:
    """Some languages write 5 as 5.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


# Whole characters; a plain str may hold half of one.
Text = Annotated[str, Field(strict=True, max_length=MAX_BODY_BYTES)]
WHOLE = BeforeValidator(_whole)  # after the limits, or the description of the API would lack them
Real = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Yes = Annotated[bool, Field(strict=True)]


@dataclass(frozen=True)
class Only:
    """A parameter that a small model can follow only where it changes nothing."""

    allowed: Callable[[Any], bool]
    problem: str
    schema: dict[str, Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._check)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: Any) -> dict[str, Any]:
        return deepcopy(self.schema)  # it is written into

    def _check(self, value: Any) -> None:
        if value is not None and not self.allowed(value):
            raise ValueError(self.problem)


def _empty(value: Any) -> bool:
    return value in ([], {}, "")


def _zero(value: Any) -> bool:
    return type(value) in (int, float) and value == 0


NO_FUNCTIONS = "this model calls no functions"
NULL: dict[str, Any] = {"type": "null"}
NOTHING = {"anyOf": [NULL, {"type": "array", "maxItems": 0}]}
NO_PENALTY = {"anyOf": [NULL, {"const": 0}]}


class TextPart(BaseModel):
    type: Literal["text"]
    text: Text


def _joined(value: Any) -> Any:
    """Content as one text; parts of other kinds than text are refused by name."""
    if not isinstance(value, list):
        return value
    if not value or len(value) > MAX_PARTS:
        raise ValueError(f"a message has from 1 to {MAX_PARTS} parts")
    texts = []
    for place, part in enumerate(value):
        if not isinstance(part, dict):
            raise ValueError(f"part {place} is no object")
        kind = part.get("type")
        if kind != "text":
            raise ValueError(f"part {place} is no text but {str(kind)!a:.40}; this model reads text only")
        if not isinstance(part.get("text"), str):
            raise ValueError(f"part {place} has no text")
        texts.append(part["text"])
    return "".join(texts)


class MessageBody(BaseModel):
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[Text | None, BeforeValidator(_joined, json_schema_input_type=Text | list[TextPart] | None)] = (
        None
    )
    tool_calls: Annotated[Any, Only(_empty, NO_FUNCTIONS, NOTHING)] = None
    function_call: Annotated[Any, Only(_empty, NO_FUNCTIONS, NULL)] = None

    @model_validator(mode="after")
    def _says_something(self) -> MessageBody:
        if self.content is None and self.role != "assistant":
            raise ValueError("the message has no content")
        return self


class StreamOptions(BaseModel):
    include_usage: Yes | None = None


def _list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


StopText = Annotated[Text, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]
Stops = Annotated[list[StopText], Field(max_length=MAX_STOPS, fail_fast=True)]


class Body(BaseModel):
    """What both ways to ask have in common. Settings left out take the server's defaults."""

    model: Text | None = None  # whatever it says, the one model answers
    max_tokens: Annotated[int, Field(strict=True, ge=0, le=LARGEST), WHOLE] | None = None
    temperature: Annotated[Real, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Real, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(strict=True, ge=-1, le=LARGEST), WHOLE] | None = None
    min_p: Annotated[Real, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[Real, Field(gt=0, le=10)] | None = None
    seed: Annotated[int, Field(strict=True, ge=-LARGEST_SEED, le=LARGEST_SEED), WHOLE] | None = None
    n: Annotated[int, Field(strict=True, ge=1, le=MAX_N), WHOLE] | None = None
    stop: Annotated[Stops | None, BeforeValidator(_list, json_schema_input_type=StopText | Stops | None)] = None
    stream: Yes | None = None
    stream_options: StreamOptions | None = None
    frequency_penalty: Annotated[
        Any, Only(_zero, "this server has no frequency_penalty, only repetition_penalty", NO_PENALTY)
    ] = None
    presence_penalty: Annotated[
        Any, Only(_zero, "this server has no presence_penalty, only repetition_penalty", NO_PENALTY)
    ] = None
    logit_bias: Annotated[
        Any,
        Only(_empty, "this server has no logit_bias", {"anyOf": [NULL, {"type": "object", "maxProperties": 0}]}),
    ] = None

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)


TEXT_FORMAT = {
    "anyOf": [NULL, {"type": "object", "properties": {"type": {"const": "text"}}, "required": ["type"]}],
}


class ChatRequest(Body):
    """POST /v1/chat/completions."""

    messages: Annotated[list[MessageBody], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    max_tokens: Annotated[int, Field(strict=True, ge=1, le=LARGEST), WHOLE] | None = None
    max_completion_tokens: Annotated[int, Field(strict=True, ge=1, le=LARGEST), WHOLE] | None = None
    logprobs: Yes | None = None
    top_logprobs: Annotated[int, Field(strict=True, ge=0, le=MOST_LOGPROBS), WHOLE] | None = None
    continue_final_message: Yes | None = None
    add_generation_prompt: Yes | None = None
    response_format: Annotated[
        Any,
        Only(
            lambda value: isinstance(value, dict) and value.get("type") == "text",
            "this model writes plain text only",
            TEXT_FORMAT,
        ),
    ] = None
    tools: Annotated[Any, Only(_empty, NO_FUNCTIONS, NOTHING)] = None
    functions: Annotated[Any, Only(_empty, NO_FUNCTIONS, NOTHING)] = None
    tool_choice: Annotated[
        Any, Only(lambda value: value in ("none", "auto"), NO_FUNCTIONS, {"enum": [None, "none", "auto"]})
    ] = None
    function_call: Annotated[
        Any, Only(lambda value: value in ("none", "auto"), NO_FUNCTIONS, {"enum": [None, "none", "auto"]})
    ] = None
    modalities: Annotated[
        Any,
        Only(
            lambda value: value in ([], ["text"]),
            "this model writes text only",
            {"anyOf": [NULL, {"type": "array", "items": {"const": "text"}, "maxItems": 1}]},
        ),
    ] = None
    audio: Annotated[Any, Only(_empty, "this model writes text only", NULL)] = None
    web_search_options: Annotated[Any, Only(_empty, "this model searches nothing", NULL)] = None


def _prompts(value: Any) -> list[str] | list[list[int]]:
    """A text, texts, ids, or lists of ids, as a list of texts or of lists of ids."""
    prompts = value if isinstance(value, list) and value and type(value[0]) in (str, list) else [value]
    if len(prompts) > MAX_PROMPTS:
        raise ValueError(f"there are more than {MAX_PROMPTS} prompts")
    if all(isinstance(prompt, str) for prompt in prompts):
        if not all(map(_is_whole, prompts)):
            raise ValueError("the text holds half of a character (a lone surrogate)")
        return prompts
    if all(isinstance(prompt, list) for prompt in prompts):
        if not all(prompts):
            raise ValueError("a prompt of token ids is empty")
        if any(len(prompt) > MAX_IDS for prompt in prompts):
            raise ValueError(f"a prompt has more than {MAX_IDS} tokens")
        prompts = [prompt if _are_whole(prompt) else list(map(_whole, prompt)) for prompt in prompts]
        if all(map(_are_whole, prompts)):
            return prompts
    raise ValueError("it is neither a text, a list of texts, a list of token ids, nor a list of such lists")


def _are_whole(ids: list[Any]) -> bool:
    return set(map(type, ids)) == {int}


def _is_whole(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


Id = Annotated[int, Field(ge=0)]
Ids = Annotated[list[Id], Field(min_length=1)]
Prompts = (
    str
    | Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS)]
    | Ids
    | Annotated[list[Ids], Field(min_length=1, max_length=MAX_PROMPTS)]
)


class CompletionRequest(Body):
    """POST /v1/completions."""

    prompt: Annotated[list[str] | list[list[int]], PlainValidator(_prompts, json_schema_input_type=Prompts)]
    echo: Yes | None = None
    logprobs: Annotated[int, Field(strict=True, ge=0, le=MOST_LOGPROBS), WHOLE] | None = None
    best_of: Annotated[int, Field(strict=True, ge=1, le=MAX_N), WHOLE] | None = None
    suffix: Annotated[Any, Only(_empty, "this model writes no text between two others", {"enum": [None, ""]})] = None
