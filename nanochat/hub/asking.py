"""Requests to the Hub: with which token, tried how often, and what their failures mean to a person."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable
from typing import Any, TypeVar

from nanochat.console import UserError, say
from nanochat.corpus import retrying
from nanochat.corpus.transfer import WORTH_SAYING

T = TypeVar("T")

VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN")
TOKEN = re.compile(r"[!-~]{1,4096}")  # goes into a header
TOKENS = "https://huggingface.co/settings/tokens"
URL = re.compile(r"\S*://\S*")  # of a storage: it holds a signature that lets anybody in
TIMEOUT, LONG = 10.0, 120.0  # seconds for a connection, and without an answer
SILENT_RETRIES = 2  # of the first request, if nothing answers: usually there is no network
LONGEST_REASON = 150  # characters


def find_token(given: str | None = None) -> str | None:
    """The token of a flag, else of the environment, else of the login (`hf auth login`); None when there is none."""
    from huggingface_hub import get_token

    found = next(
        filter(None, (text.strip() for text in (given or "", *(os.environ.get(v, "") for v in VARIABLES)))), ""
    )
    if not found:
        try:
            found = (get_token() or "").strip()
        except Exception:  # an unreadable file, or a Hub that does not renew a login; its words may hold the token
            raise UserError(
                "the login of the Hugging Face Hub cannot be read", "Give --token", "Set HF_TOKEN"
            ) from None
    if found and not TOKEN.fullmatch(found):
        raise UserError("the token for the Hub has a space or an odd character in it", "Copy it again", f"See {TOKENS}")
    return found or None


def client(token: str | None) -> Any:
    """The Hub's client (HfApi). Its own progress bars and remarks are off; no request waits for ever."""
    from huggingface_hub import HfApi, get_session
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]  # public, but loaded lazily

    disable_progress_bars()
    for handler in logging.getLogger("huggingface_hub").handlers:
        if _is_harmless not in handler.filters:
            handler.addFilter(_is_harmless)
    get_session().timeout = (TIMEOUT, LONG, LONG, None)  # connect, read, write, pool
    return HfApi(token=token or False, library_name="nanochat")


def _is_harmless(remark: logging.LogRecord) -> bool:
    """Whether a remark of the client may be shown: it tells of every retry with the signed address of the storage. How
    long it waits is said here."""
    text = remark.getMessage()
    if text.startswith("Rate limited"):
        say(f"the Hub is busy. {text}")
    return False


def patiently(repo: str, token: str | None, ask: Callable[[], T], first: bool = False) -> T:
    """What `ask` returns, tried again while the Hub is busy or the network breaks; UserError when that does not help.

    first: nothing has been asked before, so that silence most likely means that there is no network.
    """
    failures = 0
    while True:
        try:
            return ask()
        except UserError:
            raise
        except Exception as error:  # the client lets errors of its HTTP library through, whichever that is
            failures += 1
            retries = SILENT_RETRIES if first and not retrying.is_answer(error) else retrying.RETRIES
            wait_or_raise(error, failures, repo, token, retries)


def wait_or_raise(error: Exception, failures: int, repo: str, token: str | None, retries: int = -1) -> None:
    """Wait before the next try after so many failures in a row, or raise what the error means to a person."""
    # "Error while uploading": the address of the storage may have expired, too, and the next try gets a new one.
    cause = error.__cause__ if type(error) is RuntimeError and isinstance(error.__cause__, Exception) else error
    local = isinstance(cause, FileNotFoundError | PermissionError | IsADirectoryError)
    most = retrying.RETRIES if retries < 0 else retries
    if local or failures > most or not retrying.is_transient(error):
        raise explained(cause, repo, token) from None
    seconds = retrying.pause(cause, failures)
    if seconds >= WORTH_SAYING:
        say(f"{repo}: {reason(cause, token)}; trying again in {seconds:.0f} s")
    time.sleep(seconds)


def status(error: Exception) -> int | None:
    """The HTTP status of an answer; None when nothing answered."""
    return getattr(getattr(error, "response", None), "status_code", None)


def reason(error: Exception, token: str | None) -> str:
    """Why a request failed, as a few words without addresses and without the token, which a server may have said."""
    said = str(getattr(error, "server_message", None) or "").strip()
    code = status(error)
    if code is not None:
        text = f"it answers {code}" + (f", {said}" if said else "")
    else:
        text = str(error).strip() or type(error).__name__
    if token:
        text = text.replace(token, "***")
    text = URL.sub("…", text.split("\n")[0])
    return "".join(char for char in text if char.isprintable())[:LONGEST_REASON]


def explained(error: Exception, repo: str, token: str | None) -> UserError:
    """A failed request as one line."""
    from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled, RepositoryNotFoundError

    code, why = status(error), reason(error, token)
    if isinstance(error, UserError):
        return error
    if isinstance(error, OfflineModeIsEnabled):
        return UserError("HF_HUB_OFFLINE keeps everything from the network", "Unset it")
    if isinstance(error, GatedRepoError):
        return UserError(f"{repo} is open only to who has accepted its conditions", "Accept them on its page first")
    if code == 401 and token:
        make = f"Make a new one at {TOKENS}"
        return UserError(
            "the Hub does not accept the token: it is wrong, or has expired",
            f"{make} and give it with --token",
            f"{make} and set HF_TOKEN to it",
        )
    if code == 403:
        problem = f"the Hub does not allow this in {repo} ({why})" if token else f"{repo} needs a token"
        return UserError(problem, f"Take a token that may write there, from {TOKENS}")
    if isinstance(error, RepositoryNotFoundError) or code == 401:
        if token:
            problem = f"there is no repository {repo} that this token may see"
            return UserError(problem, "Check --repo-id, --repo-type and --token", "Check its name")
        remedy = "Check --repo-id and --repo-type; a private one needs --token, HF_TOKEN or `hf auth login`"
        return UserError(f"there is no public repository {repo}", remedy, "Check its name, or set HF_TOKEN")
    again = "run the same command again: it goes on where it was"
    if code is None and isinstance(error, OSError) and error.filename:
        return UserError(f"cannot read {error.filename}: {error.strerror}", "Check the file and run this again")
    if code is None and not retrying.is_transient(error):
        return UserError(f"the Hub's client cannot do this for {repo} ({why})", "Check what it names")
    if code is None:
        return UserError(f"cannot reach the Hub for {repo} ({why})", f"Check the network, then {again}")
    return UserError(f"the Hub refuses this for {repo}: {why}", f"Try later: {again}")
