#!/usr/bin/env bash
# A small run on the CPU, even where there are GPUs: the built-in tiny world in some minutes, or other text.
#   bash dev/runcpu.sh
#   bash dev/runcpu.sh --dataset my_texts --time-budget 10m
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
export CUDA_VISIBLE_DEVICES="" HIP_VISIBLE_DEVICES=""
unset NPROC_PER_NODE # which may be the number of GPUs
exec bash "$here/speedrun.sh" "$@"
