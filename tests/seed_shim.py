"""Stands for python, torchrun and nanochat in a shell that runs docs/seed.md: the same commands, with small sizes.

python tests/seed_shim.py NAME ARG ...
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

STEPS = ["--num_iterations=2", "--compile=off", "--no-answers", "--eval_every=-1"]
BATCH = [*STEPS, "--total_batch_size=4096", "--eval_tokens=4096"]
CHATS = [*BATCH, "--conversations=50"]
# A flag that is given twice has its last value.
SMALL = {
    "tok_train": ["--vocab_size=600", "--max_chars=1000000"],
    "base_train": [*BATCH, "--max_seq_len=128"],
    "base_loss": ["--split_tokens=4096"],
    "base_eval": ["--split_tokens=4096", "--max_per_task=2", "--tasks=copa,arc_easy"],
    "mid_train": CHATS,
    "chat_sft": CHATS,
    "chat_rl": [*STEPS, "--examples_per_step=2", "--num_samples=2", "--max_new_tokens=8", "--eval_examples=2"],
    "chat_eval": ["-x", "2", "-m", "8"],
    "chat_cli": ["--max_tokens=8"],
    "identity": ["--size=20"],
    "speedrun": ["--dry-run"],
}


def smaller(command: str, args: list[str]) -> list[str]:
    more = list(SMALL.get(command, ()))
    if command == "base_train":  # one layer, by the name that it would have
        [depth] = [arg.partition("=")[2] for arg in args if arg.startswith("--depth=")]
        more += ["--depth=1", f"--model_tag=d{depth}"]
    if not os.environ.get("NANOCHAT_EVAL_BUNDLE"):
        more = [flag for flag in more if not flag.startswith(("--max_per_task", "--tasks"))]
    return [*args, *more]


def make_environment(folder: Path) -> int:
    """What `python -m venv` makes, as far as the scripts look."""
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "activate").touch()
    for name in ("python", "nanochat"):
        (folder / "bin" / name).symlink_to(Path(os.environ["SEED_SHIMS"]) / name)
    return 0


def serve(args: list[str]) -> int:
    """Start chat_web, ask it something as the seed's page does, and end it."""
    call = [sys.executable, "-m", "scripts.chat_web", *args, "--port=0", "--max-tokens=8"]
    server = subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert server.stdout
    for line in server.stdout:
        print(line, end="", flush=True)
        if found := re.search(r"http://127\.0\.0\.1:\d+", line):
            body = json.dumps({"messages": [{"role": "user", "content": "Why is the sky blue?"}]}).encode()
            asked = urllib.request.Request(found[0] + "/chat/completions", body, {"Content-Type": "application/json"})
            with urllib.request.urlopen(asked, timeout=120) as answer:
                print("the page's answer:", answer.status, answer.read().decode().splitlines()[-3:], flush=True)
            break
    server.send_signal(signal.SIGTERM)
    server.communicate(timeout=120)
    return 0 if server.returncode in (0, 143, -signal.SIGTERM) else server.returncode or 1


def main(name: str, args: list[str]) -> int:
    if name == "python" and args[:1] != ["-m"]:
        return subprocess.call([sys.executable, *args])
    if name == "nanochat":
        return subprocess.call([sys.executable, "-m", "nanochat", args[0], *smaller(args[0], args[1:])])
    at = args.index("-m")
    before, module, rest = args[:at], args[at + 1], args[at + 2 :]
    if module == "venv":
        return make_environment(Path(rest[-1]))
    if module == "pip":
        return 0
    if module == "pytest":
        rest.append("--collect-only")
    if module == "scripts.chat_web":
        return serve(rest)
    if name == "torchrun":
        ranks = 2 if module in ("scripts.base_train", "scripts.mid_train") else 1
        before = ["-m", "torch.distributed.run", *(re.sub(r"(?<=nproc_per_node=)\d+", str(ranks), a) for a in before)]
    rest = smaller(module.removeprefix("scripts."), rest)
    return subprocess.call([sys.executable, *before, "-m", module, *rest])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
