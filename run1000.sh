#!/usr/bin/env bash
# The original's larger run: depth 32, 1.9 B parameters, 38 B tokens. It took 33 hours on eight H100, about 800 dollars.
#   screen -L -Logfile run1000.log -S run1000 bash run1000.sh --backup hf://you/my-d32
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
exec bash "$here/speedrun.sh" --recipe seed --depth 32 "$@"
