"""Whether the run's text, its conversations and CORE's questions are here or can be fetched."""

from __future__ import annotations

import time
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from nanochat.console import UserError
from nanochat.corpus import HUB_CORPORA, TINYWORLD, find_info, text_files
from nanochat.corpus.hub import mirror_dir, remote_files
from nanochat.hub.asking import status
from nanochat.pipeline.doctor.finding import Finding, ok, stop, together, warning
from nanochat.pipeline.doctor.situation import Situation

FIRST = "shard_00000.parquet"
SOME = 1 << 10  # bytes of the first shard that are fetched
TIMEOUT = 10.0  # seconds without an answer


def data(now: Situation) -> Finding:
    if now.dataset == TINYWORLD:
        return ok("the tiny world is made here, and needs no network")
    if now.dataset not in HUB_CORPORA:
        return _own(now.dataset)
    return together([_corpus(now), *_conversations(), _questions()])


def _own(dataset: str) -> Finding:
    if Path(dataset).exists():
        return ok(f"{len(text_files(Path(dataset).resolve()))} files of text in {dataset}")
    if find_info(dataset):
        return ok(f"{dataset} is prepared")
    known = ", ".join((TINYWORLD, *HUB_CORPORA))
    return stop(f"unknown dataset {dataset!r}", f"Choose {known}, or a path that exists, with --dataset")


def _corpus(now: Situation) -> Finding:
    """The shards: in the mirror, here, or on the Hub, which is asked for their list and for the first one's start."""
    repo = HUB_CORPORA[now.dataset].repo
    mirror = mirror_dir(repo)
    if mirror:
        there = len(list(mirror.glob("shard_*.parquet")))
        if there < 2:
            remedy = "Complete NANOCHAT_HUB_DIR, or unset it"
            return stop(f"the mirror {mirror} has {there} shards, and needs two at least", remedy)
        if there - 1 < now.shards:
            few = f"the mirror has {there - 1} training shards of {now.dataset}, and the run wants {now.shards}"
            return warning(few, "It will read them several times; copy more shards")
        return ok(f"{now.dataset} is in the mirror")
    before = find_info(now.dataset)
    if before and not before.pending and len(before.shards) > now.shards:
        return ok(f"{now.dataset} is here ({len(before.shards)} shards)")
    began = time.monotonic()
    files = remote_files(repo)
    if FIRST not in files:
        return stop(f"{repo} has no {FIRST}", "Check HF_ENDPOINT")
    _fetch_some(repo, files[FIRST].commit)
    return ok(f"{now.dataset} can be downloaded ({len(files):,} shards listed in {time.monotonic() - began:.1f} s)")


def _fetch_some(repo: str, commit: str) -> None:
    """UserError unless the start of the first shard arrives from where the Hub keeps it."""
    from huggingface_hub import get_session, hf_hub_url, hf_raise_for_status
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # public, but loaded lazily

    url = hf_hub_url(repo, FIRST, repo_type="dataset", revision=commit)
    headers = {**build_hf_headers(library_name="nanochat"), "Range": f"bytes=0-{SOME - 1}"}
    try:
        with get_session().stream("GET", url, headers=headers, timeout=TIMEOUT, follow_redirects=True) as answer:
            hf_raise_for_status(answer)
            if next(answer.iter_raw(4), b"")[:4] == b"PAR1":
                return
    except Exception as error:  # the client lets errors of its HTTP library through, whichever that is
        code = status(error)  # not its words: a server may repeat the token
        why = f"the answer is {code}" if code else type(error).__name__
        problem = f"{FIRST} of {repo} is listed, but does not arrive ({why})"
        raise UserError(problem, "Check the proxy and the firewall, or set NANOCHAT_HUB_DIR to a mirror") from None
    raise UserError(f"{FIRST} of {repo} is no parquet file", "Check the proxy and HF_ENDPOINT")


def _conversations() -> list[Finding]:
    """The sets that mid-training and fine-tuning take from the Hub; without them they take less."""
    from nanochat.corpus.hub import Unreachable
    from nanochat.tasks.mixture import HUB_SETS, is_local

    away = [one for one in HUB_SETS if not is_local(one)]
    if not away:
        return [ok("conversations are here")]
    try:
        remote_files(away[0].repo)
    except Unreachable as error:
        names = ", ".join(one.name for one in away)
        return [
            warning(
                f"conversations of {names} cannot be had ({error.problem})",
                f"Without them the model learns less to chat. {error.remedy}",
            )
        ]
    return [ok("conversations can be downloaded")]


def _questions() -> Finding:
    from nanochat.eval.bundle import BUNDLE_URL, missing_bundle, named
    from nanochat.paths import eval_bundle_dir

    missing = missing_bundle(eval_bundle_dir())
    if not missing:
        return ok("CORE's questions are here")
    host = urlsplit(BUNDLE_URL).hostname
    if not named() and not eval_bundle_dir().exists() and is_there(BUNDLE_URL):
        return ok("CORE's questions can be downloaded")
    named_so = f"NANOCHAT_EVAL_BUNDLE is {eval_bundle_dir()}, which lacks core.yaml"
    why = named_so if named() else f"{host} does not give them"
    return warning(
        f"CORE's questions cannot be had: {why}",
        f"CORE would be skipped: unzip {BUNDLE_URL} and set NANOCHAT_EVAL_BUNDLE",
    )


def is_there(url: str) -> bool:
    """Whether a server has a file."""
    try:
        with urlopen(Request(url, method="HEAD"), timeout=TIMEOUT) as answer:
            return answer.status == 200
    except (OSError, HTTPException, ValueError):
        return False
