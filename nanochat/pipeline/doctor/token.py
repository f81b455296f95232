"""The Hub's token: is there one, does the Hub know it, may it write. It is never shown."""

from __future__ import annotations

import os
from typing import Any

from nanochat.console import UserError
from nanochat.hub.asking import TOKENS, VARIABLES, client, find_token, reason, status
from nanochat.pipeline.doctor.finding import Finding, ok, stop, warning
from nanochat.pipeline.doctor.situation import Situation

ROLES = {"write", "admin", "god"}  # of a classic token, or in an organisation, that may write
MAY_WRITE = "repo.write"  # the permission of a fine-grained token
TIMEOUT = 8.0  # seconds for a connection, and without an answer
MAKE = f"Make one with write access at {TOKENS} and set HF_TOKEN"


def token(now: Situation) -> Finding:
    """Needed to back up to the Hub or to push there: then what is wrong with it is a reason to stop."""
    owner, repo = target(now.backup)
    wanted = now.push or bool(owner)
    bad = stop if wanted else warning
    try:
        secret = find_token()
    except UserError as error:
        return bad(error.problem, f"{MAKE}")
    if not secret:
        return bad("no token for the Hub: nothing can be pushed or backed up there", MAKE)
    place = next((name for name in VARIABLES if os.environ.get(name, "").strip() == secret), "the login")
    try:
        said = _ask(secret)
    except Exception as error:  # the client lets errors of its HTTP library through, whichever that is
        if status(error) == 401:
            return bad(f"the Hub does not accept the token of {place}: it is wrong, or has expired", MAKE)
        problem = f"cannot ask the Hub about the token of {place} ({reason(error, secret)})"
        return warning(
            problem.replace(secret, "***"), "Check the network, and HF_ENDPOINT; nothing is known of its rights"
        )
    found = judge(said, place, owner, repo)
    if found.state != "ok" and wanted and found.state != "stop":
        found = stop(found.found, found.remedy)
    return Finding(found.state, found.found.replace(secret, "***"), found.remedy)


def target(backup: str) -> tuple[str, str]:
    """Owner and name of the repository that a backup goes to; "" when it is not on the Hub."""
    from nanochat.hub.hub_target import URL

    found = URL.fullmatch(backup)
    owner, _, name = found[2].partition("/") if found else ("", "", "")
    return owner, name


def _ask(secret: str) -> Any:
    from huggingface_hub import get_session

    api = client(secret)
    get_session().timeout = TIMEOUT
    return api.whoami()


def judge(said: Any, place: str, owner: str, repo: str) -> Finding:
    """What the Hub's answer means. owner, repo: where the run wants to write; "" when it did not say.

    A server may say anything: what is not of the usual form counts as not told.
    """
    me = _text(said, "name")
    who = f"token of {place}, account {me or 'unknown'}"
    access = _part(_part(said, "auth"), "accessToken")
    role = _text(access, "role")
    if role in ROLES:
        others = {_text(one, "name"): _text(one, "roleInOrg") for one in _list(said, "orgs")}
        if owner and owner != me and owner not in others:
            return warning(f"{who}, which does not belong to {owner}", "Back up to a name of your own, or ask to join")
        if owner and owner != me and others[owner] == "read":
            return warning(f"{who}, which may only read in {owner}", f"Ask {owner} for the role write or contributor")
        return ok(f"{who}: may write")
    if role == "fineGrained":
        places = [place for place in writable(_part(access, "fineGrained")) if _covers(place, owner, repo)]
        if places:
            return ok(f"{who}: may write in {', '.join(dict.fromkeys(name for _, name in places))}")
        where = f"in {owner}/{repo}" if owner else "anywhere"
        return warning(f"{who}, a fine-grained token that may not write {where}", f"Give it {MAY_WRITE} at {TOKENS}")
    if role == "read":
        return warning(f"{who}, which may only read", MAKE)
    return warning(f"{who}: the Hub does not tell what it may do", f"Look at {TOKENS}")


def writable(scopes: Any) -> list[tuple[str, str]]:
    """(kind, name) of the users, organisations and repositories where a fine-grained token may write."""
    found = []
    for scope in _list(scopes, "scoped"):
        entity = _part(scope, "entity")
        if MAY_WRITE in _list(scope, "permissions"):
            found.append((_text(entity, "type"), _text(entity, "name")))
    return found


def _covers(place: tuple[str, str], owner: str, repo: str) -> bool:
    kind, name = place
    return not owner or name == (owner if kind in ("user", "org") else f"{owner}/{repo}")


def _part(value: Any, key: str) -> dict[str, Any]:
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, dict) else {}


def _list(value: Any, key: str) -> list[Any]:
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, list) else []


def _text(value: Any, key: str) -> str:
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, str) else ""
