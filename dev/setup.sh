# shellcheck shell=bash
# Sourced by speedrun.sh and test.sh: make .venv beside them and install nanochat, again whenever its dependencies or
# its native code change, or a compiler was added.
# $EXTRAS: "" or "[dev]".
if [ -z "${BASH_VERSION:-}" ]; then
    echo "error: run this with bash." >&2
    exit 2
fi
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
python="${PYTHON:-python3}" remedy="Set PYTHON=/path/to/python3.11."
if [ -x "$root/.venv/bin/python" ]; then # by whatever made it, on a system whose own Python may be too old
    python="$root/.venv/bin/python" remedy="Delete $root/.venv."
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "error: nanochat needs Python 3.11 or newer, and $python is older. $remedy" >&2
    exit 2
fi
[ -x "$root/.venv/bin/python" ] || "$python" -m venv "$root/.venv" || {
    echo "error: cannot make $root/.venv. Install Python's venv module (Debian: apt install python3-venv)." >&2
    exit 2
}
wanted="$(cat "$root"/{pyproject.toml,constraints.txt,CMakeLists.txt,csrc/*.*,csrc/*/*.*} | cksum) $(command -v c++ || true) ${EXTRAS:-}"
mark="$root/.venv/installed${EXTRAS:-}"
if [ "$(cat "$mark" 2>/dev/null)" != "$wanted" ]; then
    echo "Installing nanochat${EXTRAS:-} into .venv (some minutes: the native code takes most of them) ..."
    "$root/.venv/bin/python" -m pip --version >/dev/null 2>&1 || # uv makes environments without it
        "$root/.venv/bin/python" -m ensurepip >/dev/null || exit 1
    "$root/.venv/bin/python" -m pip install --quiet --disable-pip-version-check \
        -c "$root/constraints.txt" -e "$root${EXTRAS:-}" || exit 1
    echo "$wanted" >"$mark"
fi
