# shellcheck shell=bash
# Sourced by speedrun.sh and test.sh: make .venv beside them and install nanochat, again whenever its dependencies or
# its native code change, or a compiler was added.
# $EXTRAS: "" or "[dev]".
if [ -z "${BASH_VERSION:-}" ]; then
    echo "error: run this with bash." >&2
    exit 2
fi
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
python="${PYTHON:-python3}"
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "error: nanochat needs Python 3.11 or newer, and $python is older. Set PYTHON=/path/to/python3.11." >&2
    exit 2
fi
[ -x "$root/.venv/bin/python" ] || "$python" -m venv "$root/.venv" || {
    echo "error: cannot make $root/.venv. Install Python's venv module (Debian: apt install python3-venv)." >&2
    exit 2
}
wanted="$(cat "$root"/{pyproject.toml,constraints.txt,CMakeLists.txt,csrc/*.*,csrc/*/*.*} | cksum) $(command -v c++ || true) ${EXTRAS:-}"
mark="$root/.venv/installed${EXTRAS:-}"
if [ "$(cat "$mark" 2>/dev/null)" != "$wanted" ]; then
    echo "Installing nanochat${EXTRAS:-} into .venv (a minute or two) ..."
    "$root/.venv/bin/python" -m pip install --quiet --disable-pip-version-check \
        -c "$root/constraints.txt" -e "$root${EXTRAS:-}" || exit 1
    echo "$wanted" >"$mark"
fi
