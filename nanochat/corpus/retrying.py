"""Which failed Hub requests to retry, and how long to wait first."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

RETRIES = 10  # failures in a row without a new byte that a transfer survives: five minutes of pauses
FIRST_PAUSE = 1.0  # seconds; doubles with every failure
LONGEST_PAUSE = 60.0
LONGEST_ASKED = 900.0  # if a server asks for a longer wait, we retry after this
TRANSIENT = (408, 425, 429)  # and 500 or above


def is_transient(error: Exception) -> bool:
    """Whether the same request may work later: connections that fail or break off, 408, 425, 429 and 5xx."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    # permanent: HF_HUB_OFFLINE is set, or the name or the answer makes no sense
    if isinstance(error, (OfflineModeIsEnabled, ValueError, TypeError, LookupError, AttributeError)):
        return False
    status = _status(error)
    return status is None or status in TRANSIENT or status >= 500


def is_answer(error: Exception) -> bool:
    """Whether a server answered, even if with an error."""
    return _status(error) is not None


def pause(error: Exception, failures: int) -> float:
    """Seconds to wait after `failures` failures in a row (at least 1), or longer if the server asks for it.

    The random part keeps many clients from retrying at the same moment.
    """
    backoff = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (failures - 1)) * random.uniform(0.5, 1.5)
    headers = getattr(getattr(error, "response", None), "headers", None)
    return max(backoff, _asked(headers) + FIRST_PAUSE * random.random() if headers else 0.0)


def _status(error: Exception) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _asked(headers: Mapping[str, str]) -> float:
    """Seconds that Retry-After (a number or a date) or the Hub's RateLimit header asks to wait; 0 without them."""
    after = headers.get("Retry-After", "").strip()
    limit = re.search(r"\br=0\b.*?\bt=(\d+)", headers.get("RateLimit", ""))  # "api";r=0;t=55
    if after.isdecimal():
        seconds = float(after)
    elif after:
        try:
            date = parsedate_to_datetime(after)
        except ValueError:
            return 0.0
        seconds = (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    else:
        seconds = float(limit[1]) if limit else 0.0
    return min(max(seconds, 0.0), LONGEST_ASKED)
