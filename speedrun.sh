#!/usr/bin/env bash
# From nothing to a chat: prepares .venv, then hands its arguments to `nanochat speedrun`.
#   bash speedrun.sh                              the built-in tiny world on a CPU, the full size on GPUs
#   bash speedrun.sh --dataset my_texts --time-budget 20m
#   bash speedrun.sh --dry-run                    only show the stages
#   screen -L -Logfile speedrun.log -S speedrun bash speedrun.sh        on a rented machine
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
. "$here/dev/setup.sh"
NANOCHAT_CALLED_AS="bash $(printf %q "$0")" exec "$here/.venv/bin/nanochat" speedrun "$@"
