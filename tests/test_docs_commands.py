"""Every command that the docs show is understood, with its flags and their values; and docs/commands.md is what --help
says."""

from __future__ import annotations

import re
import subprocess
import sys

from nanochat.__main__ import names
from tests.pages import DOCS, PAGES, ROOT, commands, quoted, split, text_of
from tests.understood import misread, understood

# What the docs call that is not ours. A word that is missing here is a command that does not exist, or a new one.
OTHERS = set(
    """apt apt-get brew cat cd cp curl docker du df export fuser g++ git grep hf jq kill lint-imports llm lm_eval ls
    mkdir mv mypy nvidia-smi pip rsync ruff scontrol screen ./check squeue srun ssh tail trackio ulimit unset vllm
    vllm-router wandb wsl xcode-select""".split()  # noqa: SIM905
)
OF_TORCHRUN = {"--standalone", "--nproc_per_node", "--nnodes", "--rdzv_backend", "--rdzv_endpoint", "--rdzv_id"}
OF_TORCHRUN |= {"--max-restarts", "--node_rank", "--master_addr", "--master_port"}


def complain(words: list[str]) -> str:
    """What is wrong with a command; "" if nothing is."""
    if words[0] in ("exec", "time", "nice", "sudo", "timeout"):
        return complain(words[1:])
    head, rest = words[0].removeprefix(".venv/bin/"), words[1:]
    if head == "nanochat":
        return _ours(rest)
    if head in ("python", "python3") and rest[:1] == ["-m"]:
        return _module(rest[1], rest[2:])
    if head in ("python", "python3"):
        return "" if rest[:1] in (["-c"], ["--version"]) or (ROOT / rest[0]).is_file() else f"there is no {rest[0]}"
    if head == "torchrun":
        return _launched(rest)
    if head in ("pytest", "bash", "sh", "source"):
        return _script(head, rest)
    if head == "sbatch":
        flags = [word for word in rest if word.startswith("-")]
        at = next((n for n, word in enumerate(rest) if word not in flags), len(rest))
        return _script("bash", rest[at:])
    if head == "screen" and "bash" in rest:
        return complain(rest[rest.index("bash") :])
    return "" if head in OTHERS else f"nobody knows {head!r}"


def _module(name: str, args: list[str]) -> str:
    if name.startswith("scripts."):
        return _ours([name.removeprefix("scripts."), *args])
    if name in ("nanochat.dataset", "nanochat.report"):
        return _ours([name.removeprefix("nanochat."), *args])
    if name in ("nanochat.pipeline.launch", "torch.distributed.run"):
        return _launched(args)
    if name == "pytest":
        return _script("pytest", args)
    if name.startswith("benchmarks."):
        file = ROOT / name.replace(".", "/")
        source = file.with_suffix(".py") if file.with_suffix(".py").exists() else file / "__main__.py"
        if not source.exists():
            return f"there is no {name}"
        return understood(name, *args)[1]
    return "" if name in ("pip", "venv", "build", "http.server") else f"nobody knows the module {name}"


def _ours(words: list[str]) -> str:
    """`nanochat WORDS`; three dots stand for what was said before."""
    words = [word for word in words if word != "..."]
    if not words or words[0].startswith("-"):
        return ""
    name, args = words[0].replace("-", "_"), words[1:]
    if name not in names():
        return f"there is no command {name}"
    if name == "miniseries" and "--" in args:
        at = args.index("--")
        return misread(name, *args[:at]) or misread("base_train", *args[at + 1 :])
    return misread(name, *args)


def _launched(words: list[str]) -> str:
    """torchrun WORDS."""
    if "-m" not in words:
        return "" if set(words) <= {"--max-restarts=3"} else "torchrun runs no module"  # named in a sentence
    at = words.index("-m")
    for word in words[:at]:
        if word.partition("=")[0] not in OF_TORCHRUN:
            return f"torchrun has no {word}"
    name = words[at + 1].replace("nanochat.commands.", "scripts.")
    return _module(name, words[at + 2 :])


def _script(head: str, args: list[str]) -> str:
    files = [arg for arg in args if "/" in arg or arg.endswith((".py", ".sh"))]
    for arg in files:
        if (
            not arg.startswith(("http", "$", "<", "hf:", "s3:", "~", "/", ".venv/"))
            and not (ROOT / arg.partition("::")[0]).exists()
        ):
            known = head in ("bash", "sh") and arg != args[0]  # an argument of the script: a path of the reader's
            if not known:
                return f"there is no {arg}"
    if head == "bash" and args[:1] in (["speedrun.sh"], ["run1000.sh"], ["dev/runcpu.sh"]):
        return _ours(["speedrun", *args[1:]])
    if args[:1] == ["dev/slurm.sbatch"]:  # on several nodes it only pretrains
        return _ours(["speedrun", *args[1:]]) and _ours(["base_train", *args[1:]])
    if head == "bash" and args[:1] == ["dev/spot.sh"]:
        return _ours(["speedrun", *args[2:]])
    return ""


def test_the_parser_of_commands_finds_mistakes() -> None:
    wrong = {
        "nanochat plam --budget 3": "there is no command plam",
        "python -m scripts.base_train --dpth=4": "Unrecognized options: --dpth",
        "torchrun --nproc_per_node=8 -m scripts.chat_rl -- --tasks=GSM8K": "Unrecognized options: --tasks",
        "nanochat checkpoints ls --step 3": "Unrecognized options: --step",
        "cat a | nanochat chat_cli --prompts x": "Unrecognized options: --prompts",
        "A=b bash speedrun.sh --depths 4  # why": "Unrecognized options: --depths",
        "bash speedran.sh": "there is no speedran.sh",
        "sbatch --nodes=2 dev/slrum.sbatch": "there is no dev/slrum.sbatch",
        "sbatch dev/slurm.sbatch --dpth=3": "Unrecognized options: --dpth",
        "python -m benchmarks.trains": "there is no benchmarks.trains",
        "python -m benchmarks.train --pear x": "Unrecognized options: --pear",
        "python -m benchmarks.waits --jsn x": "unrecognized arguments: --jsn",
        "python -m pytest tests/test_nothing.py": "there is no tests/test_nothing.py",
        "nanochat miniseries --depths=2,4 -- --archs=x": "Unrecognized options: --archs",
        "nanchat plan": "nobody knows 'nanchat'",
        "bash speedrun.sh --recipe seeed": "invalid choice 'seeed'",
        "nanochat eval overlapp mine": "invalid choice 'overlapp'",
        "nanochat checkpoints lss": "invalid choice 'lss'",
        "nanochat plan --gpu h1000": "there is no GPU 'h1000'",
        "nanochat plan --hours 3 --budget 4": "each a goal of their own",
        "nanochat plan --depth x": "--depth",
        "nanochat chat_eval -a TinyWorld,ARC-Esy": "'ARC-Esy' is none of",
        "nanochat chat_rl --task=HumanEval": "'HumanEval' is none of",
        "nanochat doctor --only disk,trainin": "there is no check 'trainin'",
        "nanochat base_train --dataset=tinywold": "tinyworld is meant",
        "nanochat base_train --time-budget=5parsecs": "is no duration",
        "nanochat restore": "Required options",
    }
    for line, problem in wrong.items():
        found = [complain(words) for words in split(line)]
        assert any(problem in one for one in found), (line, found)
    for line in (
        "nanochat plan --num-gpus 8 --num_gpus=8 --gpu=4090",
        "NANOCHAT_BASE_DIR=x nanochat base_eval > out.txt; ls",
        "nanochat base_train --dataset my_texts --depth=N",
        "bash speedrun.sh --dataset path/to/my_texts --data my_chats.jsonl",
        "export HF_TOKEN=hf_... OMP_NUM_THREADS=1",
    ):
        assert not any(complain(words) for words in split(line)), line


def test_every_command_in_the_docs_exists_with_its_flags() -> None:
    count = ours = 0
    wrong = []
    for page in PAGES:
        shown = list(commands(page))
        for n, (line, words) in enumerate([*shown, *quoted(page)]):
            problem = complain(words)
            if problem and not (
                n >= len(shown) and re.match(r"(Required options|Missing argument)(?!.*Unrecognized)", problem)
            ):
                wrong.append(f"{page.name}: {line}: {problem}")  # a sentence need not say all that a command needs
            count, ours = count + 1, ours + (words[0].removeprefix(".venv/bin/") not in OTHERS)
    print(f"{count} commands, {ours} of them nanochat's")
    assert not wrong, "\n".join(wrong)
    assert ours > 500


def test_the_page_of_commands_is_what_help_says() -> None:
    done = subprocess.run(
        [sys.executable, "dev/commands.py", "--check"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert {f"## {name}" for name in names()} <= set(text_of(DOCS / "commands.md").splitlines())
