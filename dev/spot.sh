#!/usr/bin/env bash
# A speedrun on machines that are taken away and come back empty: bring what the last one saved, then go on.
#   bash dev/spot.sh hf://you/my-run                     or s3://bucket/run, ...; further arguments go to speedrun
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
if [ $# -eq 0 ] || [[ $1 == -* ]]; then
    echo "error: where is the backup? Give it first: bash dev/spot.sh hf://you/my-run" >&2
    exit 2
fi
backup="$1"
shift
. "$here/dev/setup.sh"
said="$(mktemp)"
trap 'rm -f "$said"' EXIT
found=""
for try in 1 2 3 4 5; do
    if "$here/.venv/bin/nanochat" restore "$backup" --yes 2>&1 | tee "$said"; then
        found=yes
        break
    fi
    if grep -qE "holds no backup of nanochat|there is no repository" "$said"; then
        echo "This is the first machine: nothing is restored."
        found=none
        break
    fi
    echo "The backup cannot be read now (try $try of 5)." >&2
    if [ "$try" -lt 5 ]; then sleep "${NANOCHAT_SPOT_PAUSE:-60}"; fi
done
if [ -z "$found" ]; then
    echo "error: $backup cannot be read, and a second run must not begin over the first. Look at the lines above." >&2
    exit 2
fi
rm -f "$said"
exec bash "$here/speedrun.sh" --backup "$backup" "$@"
