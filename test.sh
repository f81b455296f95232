#!/usr/bin/env bash
# Prepare the environment and run the checks and tests, on all cores. --slow: also the long tests, one at a time, since
# some need the whole machine. Other arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
EXTRAS="[dev]" . dev/setup.sh
marks=(-m "not slow" -n auto --maxprocesses=8)
args=()
for a in "$@"; do
    if [ "$a" = --slow ]; then marks=(); else args+=("$a"); fi
done
if [ ${#args[@]} -eq 0 ]; then
    if ! command -v chromium >/dev/null && command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
        echo "Installing chromium for the browser tests ..."
        { apt-get update && apt-get install -y --no-install-recommends chromium; } >/dev/null 2>&1 ||
            echo "chromium could not be installed: the browser tests will be skipped"
    fi
    .venv/bin/ruff check .
    .venv/bin/ruff format --check .
    .venv/bin/mypy
    .venv/bin/lint-imports
fi
.venv/bin/python -m pytest -q "${marks[@]}" --durations=10 "${args[@]}"
