"""Requests that schemathesis makes of a server's OpenAPI schema: what it allows, and what it does not.

    python -m benchmarks.serve.cases PORT CASES SEED        # the key, if there is one: NANOCHAT_API_KEY

The last line of its output says what was found.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from benchmarks.serve.wire import HOST

PIECE = 50  # cases of one kind for one route, before its turn ends
SHOWN = 20


@dataclass
class Found:
    """statuses: how often each came. faults: answers of 500 and above. strange: those that the schema does not allow,
    with an example of each kind."""

    cases: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    routes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    strange: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)


def run(port: int, cases: int, seed: int, key: str) -> Found:
    """In turns over all routes, and over what the schema allows and forbids, until there have been enough."""
    import hypothesis
    import requests
    import schemathesis
    from schemathesis import GenerationMode
    from schemathesis.core.failures import FailureGroup
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

    headers = {"Authorization": f"Bearer {key}"} if key else {}
    url = f"http://{HOST}:{port}"
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json", headers=headers)
    operations: list[Any] = [result.ok() for result in schema.get_all_operations()]  # type: ignore[union-attr]
    found = Found()
    session = requests.Session()

    def one(case: Any) -> None:
        if found.cases >= cases:
            return
        found.cases += 1
        try:
            response = case.call(base_url=url, session=session, headers=headers, timeout=120)
        except Exception as error:  # a request that `requests` cannot send, or a connection that was closed
            found.statuses[type(error).__name__] += 1
            return
        found.statuses[str(response.status_code)] += 1
        found.routes[case.operation.label] += 1
        if response.status_code >= 500 and len(found.faults) < SHOWN:
            found.faults.append(f"{response.status_code} {response.content[:300]!r} to {case.as_curl_command()[:1500]}")
        try:
            checks = [status_code_conformance, content_type_conformance, response_schema_conformance]
            case.validate_response(response, checks=checks, headers=headers)
        except FailureGroup as failures:
            for failure in failures.exceptions:
                what = f"{case.operation.label} {response.status_code}: {str(failure).splitlines()[0]}"
                found.strange[what] += 1
                found.examples.setdefault(what, f"{str(failure)[:600]} {case.as_curl_command()[:600]}")

    turn = seed * 1_000_000
    while found.cases < cases:
        before = found.cases
        for operation in operations:
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                turn += 1
                _take(hypothesis, operation.as_strategy(generation_mode=mode), one, turn)
        if found.cases == before:
            break
    return found


def _take(hypothesis: Any, strategy: Any, one: Any, seed: int) -> None:
    """So many cases of a strategy, fewer when it has no more."""
    settings = hypothesis.settings(
        max_examples=PIECE, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate],
    )  # fmt: skip
    with contextlib.suppress(hypothesis.errors.Unsatisfiable):  # nothing is forbidden where nothing can be said
        hypothesis.seed(seed)(settings(hypothesis.given(case=strategy)(lambda case: one(case))))()


def main() -> None:
    port, cases, seed = map(int, sys.argv[1:4])
    found = run(port, cases, seed, os.environ.get("NANOCHAT_API_KEY", ""))
    print(json.dumps(vars(found)))


if __name__ == "__main__":
    main()
