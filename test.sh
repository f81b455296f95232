#!/usr/bin/env bash
# Prepare the environment and run the checks and tests, on all cores. --slow: also the long tests, one at a time, since
# some need the whole machine. Other arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
EXTRAS="[dev]" . dev/setup.sh
unset PYTHONDONTWRITEBYTECODE  # or every program that the tests start would compile the package anew
marks=(-m "not slow" -n auto --maxprocesses=8)
args=()
for a in "$@"; do
    if [ "$a" = --slow ]; then marks=(); else args+=("$a"); fi
done
if [ ${#args[@]} -eq 0 ]; then
    missing=()
    command -v chromium-headless-shell chromium chromium-browser google-chrome >/dev/null || missing+=(chromium)
    command -v shellcheck >/dev/null || missing+=(shellcheck)
    if [ ${#missing[@]} -gt 0 ] && command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
        echo "Installing ${missing[*]} for the tests of the browser and of the scripts ..."
        apt-get update >/dev/null 2>&1 || true
        # The same browser without windows begins faster, where there is a package of it.
        if apt-cache show chromium-headless-shell >/dev/null 2>&1; then
            missing=("${missing[@]/%chromium/chromium-headless-shell}")
        fi
        apt-get install -y --no-install-recommends "${missing[@]}" >/dev/null 2>&1 ||
            echo "${missing[*]} could not be installed: those tests will be skipped"
    fi
    command -v npm >/dev/null ||
        echo "npm is missing: the pages' scripts will not be type-checked, nor the pages looked at by axe"
    .venv/bin/ruff check .
    .venv/bin/ruff format --check .
    .venv/bin/mypy
    .venv/bin/lint-imports
fi
.venv/bin/python -m pytest -q "${marks[@]}" --durations=10 "${args[@]}"
