"""One question to an OpenAI-compatible server: bounded in size, time and cost, and patient with a busy server."""

from __future__ import annotations

import http.client
import json
import os
import threading
import urllib.error
import urllib.parse
import urllib.request
from email.message import Message
from types import SimpleNamespace
from typing import Any, NoReturn

from nanochat.console import UserError
from nanochat.corpus import retrying
from nanochat.synthetic.identity.meter import Meter, Tokens

ANSWER_TOKENS = 1500  # of one conversation, at most
TEMPLATE_TOKENS = 64  # that a server may put around a prompt
TIMEOUT = 120.0  # seconds without a byte
RETRIES_UNREACHED = 3  # where there is no server, most often the address is wrong
LONGEST_BODY = 1 << 20  # bytes
MOST_COUNTED = 1 << 40  # tokens that one request can have used, whatever a server says
GATEWAY_LEFT = (408, 504, 524)  # a gateway stopped waiting for an answer, which may have been written and paid for
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class LimitReached(Exception):
    """Another request could cost more than the person allows."""


class _Failed(Exception):
    """An answer with an error status, in the form that `retrying` knows."""

    def __init__(self, status: int, headers: Message, text: str) -> None:
        super().__init__(f"status {status}: {text}")
        self.response = SimpleNamespace(status_code=status, headers=headers)
        self.text = text


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        """None, which makes it an error: urllib would send the key on to another server."""


class Endpoint:
    """`base_url` as the OpenAI client takes it (.../v1). The key is read from the environment variable `key_name`.

    UserError for an address that makes no sense, or a key that cannot be sent or would be read on the way.
    """

    def __init__(self, base_url: str, model: str, key_name: str = "OPENAI_API_KEY") -> None:
        if not model:
            raise UserError("--base_url needs the name of a model", "Add --model")
        self.model, self.url = model, _checked_url(base_url)
        self.key = os.environ.get(key_name, "").strip()
        if not self.key.isascii() or not self.key.isprintable() or " " in self.key:
            raise UserError(f"{key_name} holds characters that no key has", "Correct or unset it")
        host = urllib.parse.urlsplit(self.url)
        here = host.hostname in LOOPBACK
        if self.key and host.scheme == "http" and not here:
            problem = f"{key_name} would go to {host.hostname} unencrypted, because --base_url begins with http://"
            raise UserError(problem, "Use https://, a tunnel to 127.0.0.1, or --api_key_env='' to send no key")
        # A proxy could read what goes to this machine, the key with it.
        self._opener = urllib.request.build_opener(_NoRedirect, *[urllib.request.ProxyHandler({})] * here)
        self._length_name = "max_tokens"
        self.stop = threading.Event()  # ends pauses

    def ask(self, messages: list[dict[str, str]], meter: Meter) -> str:
        """The answer's text, which may be empty. LimitReached before a request that the meter has no room for.

        UserError when the server refuses, makes no sense, or does not recover.
        """
        # A token is at least a byte, so there cannot be more of them.
        most = (sum(len(m["content"].encode()) for m in messages) + TEMPLATE_TOKENS, ANSWER_TOKENS)
        failures = unreached = 0
        while True:
            if not meter.take(most):
                raise LimitReached
            try:
                text, used = self._send(messages, most)
            except (OSError, http.client.HTTPException, ValueError, _Failed) as error:
                left = isinstance(error, _Failed) and error.response.status_code in GATEWAY_LEFT
                if isinstance(error, (_Failed, urllib.error.URLError)) and not left:  # refused, or never sent whole
                    meter.settle(most, (0, 0))
                if isinstance(error, _Failed) and self._other_length_name(error):
                    continue
                failures += 1
                unreached = unreached + 1 if type(error) is urllib.error.URLError else 0
                # An account without money is refused like a hasty one, but waiting does not help it.
                poor = isinstance(error, _Failed) and "insufficient_quota" in error.text
                over = failures > retrying.RETRIES or unreached > RETRIES_UNREACHED
                if poor or over or not retrying.is_transient(error):
                    self._give_up(error)
                if self.stop.wait(retrying.pause(error, failures)):
                    self._give_up(error)
                continue
            meter.settle(most, used)
            return text

    def _send(self, messages: list[dict[str, str]], most: Tokens) -> tuple[str, Tokens]:
        body = {"model": self.model, "messages": messages, self._length_name: ANSWER_TOKENS}
        headers = {"Content-Type": "application/json", "User-Agent": "nanochat"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(self.url, json.dumps(body).encode(), headers)
        try:
            with self._opener.open(request, timeout=TIMEOUT) as response:
                raw = response.read(LONGEST_BODY)
                if getattr(response, "length", None):  # what is missing of the length that was announced
                    raise http.client.IncompleteRead(raw)
        except urllib.error.HTTPError as error:
            with error:
                said = error.read(2000).decode(errors="replace")
            raise _Failed(error.code, error.headers, said) from None
        try:
            return _answer(json.loads(raw), most)
        except RecursionError:
            raise ValueError("it sent JSON that is nested too deeply") from None

    def _other_length_name(self, error: _Failed) -> bool:
        """Whether the server wants the answer's length under its newer name, which is tried from now on."""
        if error.response.status_code != 400 or "max_completion_tokens" not in error.text:
            return False
        before, self._length_name = self._length_name, "max_completion_tokens"
        return before != self._length_name

    def _give_up(self, error: Exception) -> NoReturn:
        said = str(error)
        if self.key:  # some servers repeat it when they refuse it
            said = said.replace(self.key, "(the key)")
        # Cut afterwards, or a part of the key could stay.
        said = "".join(filter(str.isprintable, " ".join(said.split())))[:300]
        raise UserError(f"{self.url} gives no answer: {said}", "Run the same command again to go on") from None


def _checked_url(base_url: str) -> str:
    url = base_url.strip()
    try:
        parts = urllib.parse.urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        sound = sound and url.isprintable() and " " not in url
    except ValueError:
        sound = False
    if not sound:
        raise UserError("--base_url is no address", "Write it as https://api.example.com/v1")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise UserError(
            "--base_url holds a password or a query", "Give the address alone; the key comes from the environment"
        )
    return url.rstrip("/") + "/chat/completions"


def _answer(body: Any, most: Tokens) -> tuple[str, Tokens]:
    """Text and tokens used; a server that does not count them is taken to have used a token a byte."""
    try:
        text = body["choices"][0]["message"].get("content") or ""
        usage = body.get("usage") or {}
    except (KeyError, IndexError, TypeError, AttributeError):
        raise ValueError("it sent JSON without choices") from None
    if not isinstance(text, str) or not isinstance(usage, dict):
        raise ValueError("it sent JSON whose choices hold no text")
    counted = (usage.get("prompt_tokens"), usage.get("completion_tokens"))
    prompt, completion = (n if type(n) is int and 0 <= n < MOST_COUNTED else None for n in counted)
    written = len(text.encode(errors="replace"))
    return text, (most[0] if prompt is None else prompt, written if completion is None else completion)
