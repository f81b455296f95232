"""A Hub of this machine, which the client of this process asks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from huggingface_hub import close_session, constants

from nanochat.corpus import retrying
from nanochat.hub import asking
from tests.hub.writableserver import WritableHub

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tests.hub.html_browser import Probe

TOKEN = "hf_write"


@pytest.fixture(scope="module")
def probe(browser: Browser) -> Iterator[Probe]:
    """The modules of an exported HTML file, in a browser's page."""
    from tests.hub.html_browser import Probe

    probe = Probe(browser)
    yield probe
    probe.page.close()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[WritableHub]:
    """With an empty base dir, and a token in the environment."""
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    monkeypatch.delenv("NANOCHAT_HUB_DIR", raising=False)
    for name in asking.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "*")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no login"))
    monkeypatch.setattr(retrying, "FIRST_PAUSE", 0.001)
    # The client's own pauses only: everybody else sleeps.
    monkeypatch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=lambda seconds: None))
    with WritableHub().running() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        close_session()  # it may have been opened with other proxies
        yield server
        close_session()
