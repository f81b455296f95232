"""Log-probabilities of tokens in the forms of the OpenAI API: one for chats, one for completions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from nanochat.inference import Token
from nanochat.inference.request import Likely
from nanochat.serve.openai_replies import ChatLogprobs, TextLogprobs, TokenLogprob, TopLogprob
from nanochat.serve.shown import Shown
from nanochat.tokenizer import StreamDecoder, Tokenizer

LEAST = -9999.0  # JSON has no -Infinity


class Telling:
    """The tokens of one answer, as they come: their text with tool calls in brackets, and their log-probabilities.

    Tokens that a stop string took away are left out. offset: where the text begins, in that of the whole answer.
    """

    def __init__(self, tokenizer: Tokenizer, offset: int = 0) -> None:
        self._tokenizer = tokenizer
        self._decoder = StreamDecoder(tokenizer)
        self._shown = Shown()
        self._offset = offset

    def text(self, tokens: Iterable[Token]) -> str:
        return "".join(map(self._shown.feed, tokens))

    def end(self) -> str:
        """What closes the text."""
        return self._shown.end()

    def chat(self, tokens: Iterable[Token]) -> tuple[str, ChatLogprobs]:
        """Text, and of each token that the model chose what it is in bytes; so not of what the calculator said."""
        text, content = "", []
        for token in tokens:
            if self._is_cut(token):
                continue
            text += self._shown.feed(token)
            if token.logprob is not None:
                top = [self._top(id, logprob) for id, logprob in token.top]
                own = self._top(token.id, token.logprob)
                content.append(TokenLogprob(**dict(own), top_logprobs=top))
        return text, ChatLogprobs(content=content)

    def completion(self, tokens: Iterable[Token]) -> tuple[str, TextLogprobs]:
        """Text, and of each token what it added to that."""
        text, told = "", no_logprobs()
        for token in tokens:
            if self._is_cut(token):
                continue
            piece = self._shown.feed(token)
            add(told, self._tokenizer, piece, self._offset, token.id, token.logprob, token.top)
            text += piece
            self._offset += len(piece)
        return text, told

    def _is_cut(self, token: Token) -> bool:
        if token.kind == "special":
            self._decoder.finish()
            return False
        return bool(self._decoder.feed(token.id)) and not token.text

    def _top(self, id: int, logprob: float) -> TopLogprob:
        data = self._tokenizer.bytes_of(id)
        return TopLogprob(token=data.decode(errors="replace"), logprob=max(logprob, LEAST), bytes=list(data))


def no_logprobs() -> TextLogprobs:
    return TextLogprobs(tokens=[], token_logprobs=[], top_logprobs=[], text_offset=[])


def add(
    told: TextLogprobs, tokenizer: Tokenizer, text: str, offset: int, id: int, logprob: float | None, top: Likely
) -> None:
    """Append a token whose text begins at `offset`. It is among the likeliest ones that are told of it."""
    told.tokens.append(text)
    told.text_offset.append(offset)
    if logprob is None:
        told.token_logprobs.append(None)
        told.top_logprobs.append(None)
        return
    told.token_logprobs.append(max(logprob, LEAST))
    told.top_logprobs.append({_name(tokenizer, id): max(value, LEAST) for id, value in [*top, (id, logprob)]})


def prompt_logprobs(
    tokenizer: Tokenizer, ids: Sequence[int], logprobs: Sequence[float | None], top: Sequence[Likely]
) -> TextLogprobs:
    """Of a prompt's tokens; their texts together are `tokenizer.decode(ids)`."""
    told, decoder, offset = no_logprobs(), StreamDecoder(tokenizer), 0
    for id, logprob, likely in zip(ids, logprobs, top, strict=True):
        text = decoder.feed(id)
        add(told, tokenizer, text, offset, id, logprob, likely)
        offset += len(text)
    if told.tokens:
        told.tokens[-1] += decoder.finish()
    return told


def joined(first: TextLogprobs, second: TextLogprobs) -> TextLogprobs:
    return TextLogprobs(
        tokens=first.tokens + second.tokens,
        token_logprobs=first.token_logprobs + second.token_logprobs,
        top_logprobs=first.top_logprobs + second.top_logprobs,
        text_offset=first.text_offset + second.text_offset,
    )


def _name(tokenizer: Tokenizer, id: int) -> str:
    """A token's text, or as OpenAI's "bytes:\\xf0\\x9f" where it is part of a character: no two have the same."""
    data = tokenizer.bytes_of(id)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
