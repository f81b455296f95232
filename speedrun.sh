#!/usr/bin/env bash
# From nothing to a chat: prepares .venv, then hands its arguments to `nanochat speedrun`.
#   bash speedrun.sh                              the built-in tiny world on a CPU; past GPT-2 on GPUs (--recipe gpt2)
#   bash speedrun.sh --recipe seed                the original of 2025: depth 20, about 4 hours on eight H100
#   bash speedrun.sh --depth 26                   larger than the recipe's
#   bash speedrun.sh --dataset my_texts --time-budget 20m
#   bash speedrun.sh --dry-run                    only show the stages; as if on other machines: --gpu h100 --num-gpus 8
#   screen -L -Logfile speedrun.log -S speedrun bash speedrun.sh        on a rented machine (docs/pods.md)
# Afterwards, if you like, teach it arithmetic by rewards, and grade that:
#   torchrun --standalone --nproc_per_node=8 -m scripts.chat_rl
#   torchrun --standalone --nproc_per_node=8 -m scripts.chat_eval -- -i rl -a GSM8K
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
. "$here/dev/setup.sh"
if [ "${WANDB_RUN:-dummy}" != dummy ] && ! "$here/.venv/bin/python" -c 'import wandb' 2>/dev/null; then
    echo "Installing wandb, since WANDB_RUN is set ..."
    "$here/.venv/bin/python" -m pip install --quiet --disable-pip-version-check -c "$here/constraints.txt" wandb ||
        echo "wandb could not be installed: there will be no curves there" >&2
fi
NANOCHAT_CALLED_AS="bash $(printf %q "$0")" exec "$here/.venv/bin/nanochat" speedrun "$@"
