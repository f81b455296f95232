"""One question to an OpenAI-compatible server: bounded in size, time and cost, and patient with a busy server.

The openai client does retries, pauses, proxies and TLS. Each of its tries goes through `_Line.send`, which counts it.
"""

from __future__ import annotations

import json
import os
import ssl
import threading
import urllib.parse
from contextlib import closing
from typing import TYPE_CHECKING, Any, NoReturn

from nanochat.console import UserError
from nanochat.synthetic.identity.meter import Meter, Tokens

if TYPE_CHECKING:
    from openai import OpenAI

ANSWER_TOKENS = 1500  # of one conversation, at most
TEMPLATE_TOKENS = 64  # that a server may put around a prompt
TIMEOUT = 120.0  # seconds without a byte
RETRIES = 10  # failures of one question that are tolerated
RETRIES_UNREACHED = 3  # if there is no server: usually, the address is wrong
LONGEST_BODY = 1 << 20  # bytes
MOST_COUNTED = 1 << 40  # tokens that one request can have used, whatever a server says
GATEWAY_LEFT = (408, 504, 524)  # a gateway stopped waiting for an answer, which may have been written and paid for
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class LimitReached(Exception):
    """Another request could cost more than the person allows, or another question has failed for good."""


class Endpoint:
    """`base_url` as the OpenAI client takes it (.../v1). The key is read from the environment variable `key_name`.

    UserError for an invalid address, a key that cannot be sent or would travel unencrypted, or a missing client.
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
        self._length_name = "max_tokens"
        self._asking = threading.local()  # each thread's question: meter, worst case, tries without a server
        self.stop = threading.Event()  # no further request is sent
        # No proxy for a server on this machine: it could read the key.
        self._client = self._connect(proxies=not here)

    def ask(self, messages: list[dict[str, str]], meter: Meter) -> str:
        """The answer's text, which may be empty. LimitReached before a request that could cross the meter's limit.

        UserError when the server refuses, makes no sense, or does not recover.
        """
        from openai import OpenAIError

        # A token is at least a byte, so this is an upper bound.
        most = (sum(len(m["content"].encode()) for m in messages) + TEMPLATE_TOKENS, ANSWER_TOKENS)
        self._asking.meter, self._asking.most, self._asking.unreached = meter, most, 0
        while True:
            length_name = self._length_name
            body: dict[str, Any] = {"model": self.model, "messages": messages, length_name: ANSWER_TOKENS}
            try:
                text, used = _answer(self._client.chat.completions.with_raw_response.create(**body).content, most)
            except (OpenAIError, ValueError) as error:
                refusal = getattr(error, "response", None)  # else the client's own words are only "Connection error."
                said = f"status {refusal.status_code}: {refusal.text}" if refusal else str(error.__cause__ or error)
                newer = said.startswith("status 400") and "max_completion_tokens" in said
                if not newer or length_name != "max_tokens":
                    self._give_up(said)
                self._length_name = "max_completion_tokens"
            else:
                meter.settle(most, used)
                return text

    def _connect(self, proxies: bool) -> OpenAI:
        try:
            import httpx2
            import openai
        except ImportError:
            raise UserError("--base_url needs the openai package, 3.57 or newer", "Run pip install -U openai") from None
        endpoint, asking = self, self._asking

        class _Line(httpx2.Client):
            def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
                """One try. Only what the question needs is sent: no header that the environment or the client adds."""
                if endpoint.stop.is_set() or not asking.meter.take(asking.most):
                    raise LimitReached
                headers = {"Content-Type": "application/json", "User-Agent": "nanochat", "Accept-Encoding": "identity"}
                if endpoint.key:
                    headers["Authorization"] = f"Bearer {endpoint.key}"
                bare = httpx2.Request(
                    "POST", endpoint.url, headers=headers, content=request.content, extensions=request.extensions
                )
                try:
                    response = super().send(bare, **{**options, "stream": True})
                    asking.unreached, raw = 0, b""
                    with closing(response):
                        for part in response.iter_raw():
                            raw += part
                            if len(raw) > LONGEST_BODY:
                                raise ValueError("it sent more than a conversation can have")
                except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError) as error:
                    asking.meter.settle(asking.most, (0, 0))
                    asking.unreached += 1
                    if asking.unreached > RETRIES_UNREACHED:
                        endpoint._give_up(str(error))
                    raise
                if not response.is_success and response.status_code not in GATEWAY_LEFT:
                    asking.meter.settle(asking.most, (0, 0))
                told = {name: response.headers.get(name, "") for name in ("retry-after", "x-should-retry")}
                if b"insufficient_quota" in raw:  # the status is that of too many requests, but waiting adds no credit
                    told["x-should-retry"] = "false"
                return httpx2.Response(response.status_code, headers=told, content=raw, request=request)

        try:
            # The key must not follow a redirect to another server, so it is an error.
            line = _Line(trust_env=proxies, verify=ssl.create_default_context(), follow_redirects=False)
            base_url = self.url.removesuffix("/chat/completions")
            return openai.OpenAI(
                api_key="sent by _Line", base_url=base_url, timeout=TIMEOUT, max_retries=RETRIES, http_client=line
            )
        except (ImportError, ValueError, httpx2.InvalidURL):
            problem = "--base_url, or a proxy that the environment names, cannot be used"
            raise UserError(problem, "Correct it; for a SOCKS proxy, run pip install socksio") from None

    def _give_up(self, said: str) -> NoReturn:
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


def _answer(raw: bytes, most: Tokens) -> tuple[str, Tokens]:
    """Text and tokens used; if the server does not count them, one token per byte is assumed."""
    try:
        body = json.loads(raw)
        text = body["choices"][0]["message"].get("content") or ""
        usage = body.get("usage") or {}
    except (KeyError, IndexError, TypeError, AttributeError):
        raise ValueError("it sent JSON without choices") from None
    except RecursionError:
        raise ValueError("it sent JSON that is nested too deeply") from None
    if not isinstance(text, str) or not isinstance(usage, dict):
        raise ValueError("it sent JSON whose choices hold no text")
    counted = (usage.get("prompt_tokens"), usage.get("completion_tokens"))
    prompt, completion = (n if type(n) is int and 0 <= n < MOST_COUNTED else None for n in counted)
    written = len(text.encode(errors="replace"))
    return text, (most[0] if prompt is None else prompt, written if completion is None else completion)
