"""Every command that the docs show exists, with its flags; and docs/commands.md is what --help says."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from nanochat.__main__ import names

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
# Not CONTRIBUTING.md, whose commands hold after its diffs, and are run by a test of its own.
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "SECURITY.md", *sorted(DOCS.glob("*.md"))]
FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```\s*$", re.DOTALL | re.MULTILINE)
INDENTED = re.compile(r"(?<=\n\n)((?:    \S[^\n]*\n)+)")
INLINE = re.compile(r"(?<!`)`([^`\n]+(?:\n[^`\n]+)?)`(?!`)")
# What the docs call that is not ours. A word that is missing here is a command that does not exist, or a new one.
OTHERS = set(
    """apt apt-get brew cat cd cp curl docker du df export fuser g++ git grep hf jq kill llm lm_eval ls mv nvidia-smi
    pip rsync sbatch scontrol screen ./check source squeue srun ssh tail trackio ulimit unset vllm vllm-router wandb wsl
    xcode-select""".split()  # noqa: SIM905
)
ASSIGNED = re.compile(r"[A-Za-z_]\w*=")


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def prose_of(page: Path) -> str:
    return FENCE.sub("", text_of(page))


def commands(page: Path) -> Iterator[tuple[str, list[str]]]:
    """(line, words) of every command in the page's bash blocks, its indented blocks, and behind "$ " in others."""
    text = text_of(page)
    blocks = [body if kind == "bash" else _typed(body) for _, kind, body in FENCE.findall(text) if kind in ("bash", "")]
    blocks += [body for body in INDENTED.findall(FENCE.sub("", text)) if not body.lstrip().startswith(("-", "*"))]
    for block in blocks:
        for line in block.replace("\\\n", " ").splitlines():
            for words in split(line):
                yield line.strip(), words


def _typed(body: str) -> str:
    return "\n".join(line[2:] for line in body.splitlines() if line.startswith("$ "))


def split(line: str) -> list[list[str]]:
    """The commands of one line, as words; comments, redirections and assigned variables are left out."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";|&<>()")
    lexer.whitespace_split, lexer.commenters = True, ""
    found: list[list[str]] = [[]]
    skip = False
    for word in lexer:
        if word.startswith("#"):
            break
        if skip:
            skip = False
        elif set(word) <= set(";|&()"):
            found.append([])
        elif set(word) <= set("<>"):
            skip = True
        elif not (ASSIGNED.match(word) and not found[-1]):
            found[-1].append(word)
    return [words for words in found if words]


def known_flags() -> dict[str, set[str]]:
    """Command -> its flags with "-", from docs/commands.md, which another test compares with --help."""
    flags: dict[str, set[str]] = {}
    alike: dict[str, str] = {}
    for title, body in re.findall(
        r"^##+ ([\w ]+)\n(.*?)(?=^##|\Z)", text_of(DOCS / "commands.md"), re.DOTALL | re.MULTILINE
    ):
        if same := re.search(r"(?:The same as|Its flags are those of) \[(\w+)\]", body):
            alike[title] = same[1]
        first_cells = " ".join(re.findall(r"^\| `(.*?)` \|", body, re.MULTILINE))
        flags[title] = set(re.findall(r"(?<![\w-])(--?[a-zA-Z][\w-]*)", first_cells)) | {"--help"}
    return flags | {name: flags[other] for name, other in alike.items()}


KNOWN = known_flags()
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
    if head in ("pytest", "bash", "sh"):
        return _script(head, rest)
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
        folder = source.parent if source.name == "__main__.py" else None
        code = "".join(
            text_of(path) for path in (folder.glob("*.py") if folder else [source, ROOT / "benchmarks/result.py"])
        )
        for flag in flags_in(args):
            if not re.search(rf'"{flag}"|^ +{flag.lstrip("-").replace("-", "_")}:', code, re.MULTILINE):
                return f"{name} has no {flag}"
        return ""
    return "" if name in ("pip", "venv", "build", "http.server") else f"nobody knows the module {name}"


def _ours(words: list[str]) -> str:
    """`nanochat WORDS`."""
    if not words or words[0].startswith("-"):
        return ""
    name, args = words[0].replace("-", "_"), words[1:]
    if name not in names():
        return f"there is no command {name}"
    title = f"{name} {args[0]}" if args and f"{name} {args[0]}" in KNOWN else name
    for flag in flags_in(args):
        if flag not in KNOWN[title]:
            return f"{title} has no {flag}"
    if name == "miniseries" and "--" in args:
        return _ours(["base_train", *args[args.index("--") + 1 :]])
    return ""


def flags_in(args: list[str]) -> list[str]:
    """The flags among arguments, with "-"; those behind a "--" that is not the first word are somebody else's."""
    args = args[1:] if args[:1] == ["--"] else args
    args = args[: args.index("--")] if "--" in args else args
    found = (re.match(r"(--?[a-zA-Z][\w-]*)(?==|$)", arg) for arg in args)
    return [
        match[1] if match[1].count("-") < 2 and len(match[1]) == 2 else match[1].replace("_", "-")
        for match in found
        if match
    ]


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
            not arg.startswith(("http", "$", "<", "hf:", "s3:", "~", "/"))
            and not (ROOT / arg.partition("::")[0]).exists()
        ):
            known = head in ("bash", "sh") and arg != args[0]  # an argument of the script: a path of the reader's
            if not known:
                return f"there is no {arg}"
    if head == "bash" and args[:1] in (["speedrun.sh"], ["run1000.sh"], ["dev/runcpu.sh"]):
        return _ours(["speedrun", *args[1:]])
    if head == "bash" and args[:1] == ["dev/spot.sh"]:
        return _ours(["speedrun", *args[2:]])
    return ""


def test_the_parser_of_commands_finds_mistakes() -> None:
    wrong = {
        "nanochat plam --budget 3": "there is no command plam",
        "python -m scripts.base_train --dpth=4": "base_train has no --dpth",
        "torchrun --nproc_per_node=8 -m scripts.chat_rl -- --tasks=GSM8K": "chat_rl has no --tasks",
        "nanochat checkpoints ls --step 3": "checkpoints ls has no --step",
        "cat a | nanochat chat_cli --prompts x": "chat_cli has no --prompts",
        "A=b bash speedrun.sh --depths 4  # why": "speedrun has no --depths",
        "bash speedran.sh": "there is no speedran.sh",
        "python -m benchmarks.trains": "there is no benchmarks.trains",
        "python -m benchmarks.train --pear x": "benchmarks.train has no --pear",
        "python -m pytest tests/test_nothing.py": "there is no tests/test_nothing.py",
        "nanochat miniseries --depths=2,4 -- --archs=x": "base_train has no --archs",
        "nanchat plan": "nobody knows 'nanchat'",
    }
    for line, problem in wrong.items():
        assert [complain(words) for words in split(line)][-1] == problem, line
    for line in ("nanochat plan --num-gpus 8 --num_gpus=8", "NANOCHAT_BASE_DIR=x nanochat base_eval > out.txt; ls"):
        assert [complain(words) for words in split(line)] in ([""], ["", ""])


def quoted(page: Path) -> Iterator[tuple[str, list[str]]]:
    """The commands in the page's sentences; `nanochat X` stands for any."""
    for code in INLINE.findall(prose_of(page)):
        code = " ".join(code.split())
        if re.match(r"(nanochat|python -m|torchrun|bash) \S*[a-z_]", code) and not re.search(r"\.\.\.|\.X\b", code):
            for words in split(code):
                yield code, words


def test_every_command_in_the_docs_exists_with_its_flags() -> None:
    count = ours = 0
    wrong = []
    for page in PAGES:
        for line, words in [*commands(page), *quoted(page)]:
            if problem := complain(words):
                wrong.append(f"{page.name}: {line}: {problem}")
            count, ours = count + 1, ours + (words[0].removeprefix(".venv/bin/") not in OTHERS)
    print(f"{count} commands, {ours} of them nanochat's")
    assert not wrong, "\n".join(wrong)
    assert ours > 400


def test_the_page_of_commands_is_what_help_says() -> None:
    done = subprocess.run(
        [sys.executable, "dev/commands.py", "--check"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert {f"## {name}" for name in names()} <= set(text_of(DOCS / "commands.md").splitlines())
