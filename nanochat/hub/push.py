"""A run's checkpoints, or any folder, to a Hub repository: looked through first, sent as one commit, proven by hash."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from nanochat import checkpoint
from nanochat.checkpoint import Manifest
from nanochat.checkpoint.folder import OPTIMIZER
from nanochat.checkpoint.upstream import NAMES as UPSTREAM
from nanochat.console import Progress, UserError, file_size, say, warn
from nanochat.corpus.transfer import Kind
from nanochat.hub.asking import find_token, patiently
from nanochat.hub.repository import (
    Listing,
    Outgoing,
    Repository,
    changes,
    look,
    path_in_repo,
    prepare,
    read_small,
    send,
)
from nanochat.metrics import FILE as METRICS
from nanochat.metrics import training_file
from nanochat.paths import is_inside
from nanochat.reading import MB, shown
from nanochat.train.answers import FILE as ANSWERS

STEP = re.compile(r"step_(\d{6,})", re.ASCII)
TOKENIZER = ("meta.json", "ranks.tiktoken")  # a folder with these is a tokenizer of ours
OLD_TOKENIZER = ("tokenizer.pkl", "token_bytes.pt")
LEFT = re.compile(r".*\.(?:part|lock)", re.DOTALL)
README = "README.md"
PAGE = "index.html"  # what a static Space shows
OF_A_RUN = (ANSWERS, METRICS)  # beside its checkpoints; last what tells a pull that all has come
LISTED = 200  # files that a dry run names


@dataclass(frozen=True)
class Load:
    """What a push brings. files: by their path in the folder. stale: whether another file of that folder goes. stage,
    tag, newest: of a run, and its newest step."""

    what: str
    files: dict[str, Outgoing]
    stale: Callable[[str], bool]
    stage: str = ""
    tag: str = ""
    newest: Path | None = None

    @property
    def bytes(self) -> int:
        return sum(file.size for file in self.files.values())


def push(
    repo_id: str,
    stage: str = "",
    tag: str = "",
    model_dir: str = "",
    step: int = -1,
    into: str = "",
    kind: Kind = "model",
    branch: str = "",
    message: str = "",
    private: bool | None = None,
    token: str | None = None,
    optimizer: bool = True,
    dry_run: bool = False,
) -> str:
    """Send a run (stage, and tag: "" for the one that was written last) or the folder `model_dir` to a repository.

    step: -1 for all. into: the folder in the repository. private: None for a new repository to be private and an old
    one to stay as it is. Returns the commit: "" when everything was there already. UserError, before anything is sent,
    for what is not there, is damaged, or cannot be named so.
    """
    if bool(stage) == bool(model_dir):
        raise UserError("a push takes either a stage or a folder", "Give either --stage or --model-dir")
    if model_dir and (tag or step >= 0 or not optimizer):
        raise UserError("--model-tag, --step and --no-optimizer go with --stage", "Leave them out with --model-dir")
    if kind == "space" and (stage or into.strip("/")):
        remedy = "Leave out --path-in-repo" if model_dir else "Give a folder with an index.html, see docs/html.md"
        raise UserError("a Space shows a page that lies at its top: no stage goes there, and no folder in it", remedy)
    found = find_token(token)
    where, folder = Repository(repo_id, kind, branch, found), path_in_repo(into)
    if not found and not dry_run:
        login = "set HF_TOKEN, or run `hf auth login`"
        raise UserError("a push needs a token of the Hub with write access", f"Give --token, {login}")
    load = run_load(stage, tag, step, optimizer) if stage else folder_load(expanded(model_dir))
    if kind == "space" and PAGE not in load.files:
        remedy = "Write one: python -m scripts.export_html -i sft --output space/index.html"
        raise UserError(f"the folder {load.what} has no {PAGE}, which is what a Space shows", remedy)
    if kind == "space":
        _require_static(where, load)
    if dry_run:
        there = look(where)
        _tell(where, folder, load, there, private)
        return ""
    say(f"{load.what}: {counted(len(load.files))}, {file_size(load.bytes)}, to {where.shown}/{folder}".rstrip("/"))
    there = prepare(where, private)
    files, stale = _placed(folder, load)
    if _has_card(where, load, there) and (card := _card(where, folder, load)):
        files[README] = Outgoing(card.encode())
    done = send(where, files, message.strip() or f"Push of {load.what}", stale, there)
    if done.deleted:
        say(f"Deleted {counted(len(done.deleted))} of an earlier push there (the repository's history keeps them)")
    if not done.commit:
        say(f"All {done.same:,} files were there already, by hash: nothing was sent")
    else:
        same = f"; {done.same:,} were there already" if done.same else ""
        say(f"Sent {counted(done.files)}, {file_size(done.bytes)}{same}; all hashes are equal at both ends")
    say(f"It is at {_address(where, folder)}")
    return done.commit


def _has_card(where: Repository, load: Load, there: Listing | None) -> bool:
    """Whether a README.md is written for the repository's front page: none of a person's is replaced."""
    wanted = README not in load.files if where.kind == "space" else bool(load.stage) and where.kind == "model"
    return wanted and not (there and _is_a_persons(where, there))


def _card(where: Repository, folder: str, load: Load) -> str:
    """README.md for the repository's front page; "" when the Hub refuses it."""
    from huggingface_hub import constants, get_session, hf_raise_for_status

    from nanochat.hub.card import write_card
    from nanochat.hub.space import write_space_card

    space = where.kind == "space"
    text = (
        write_space_card(where.name)
        if space
        else write_card(load.stage, load.tag, load.newest, repo=where.name, inside=folder)
    )
    asked = {"content": text, "repoType": where.kind}

    def ask() -> None:
        hf_raise_for_status(get_session().post(f"{constants.ENDPOINT}/api/validate-yaml", json=asked))

    try:
        patiently(where.name, where.token, ask)
    except UserError as error:
        warn(f"warning: the Hub does not accept the {README} written for it ({error.problem}): pushed without it")
        return ""
    return text


def _is_a_persons(where: Repository, there: Listing) -> bool:
    """Whether the repository has a README.md that no push wrote."""
    from nanochat.hub.card import is_ours

    old = there.files.get(README)
    return bool(old and (old.size > MB or not is_ours(read_small(where, old).decode(errors="replace"))))


def _require_static(where: Repository, load: Load) -> None:
    """UserError when a README.md of a person's makes it a Space that shows no page: one of Gradio's, say."""
    from nanochat.hub.space import is_static

    remedy = "Write `sdk: static` between two lines `---` at its beginning"
    own = load.files.get(README)
    if own and isinstance(own.content, Path):
        if not is_static(_read(own.content).decode(errors="replace")):
            raise UserError(f"the {README} in {load.what} does not make it a static Space", remedy)
    elif (there := look(where)) and _is_a_persons(where, there):
        old = there.files[README]
        if old.size <= MB and not is_static(read_small(where, old).decode(errors="replace")):
            problem = f"the {README} of {where.shown} says that it is no static Space: it would not show the page"
            raise UserError(problem, "Choose another --repo-id", remedy)


def run_load(stage: str, tag: str = "", step: int = -1, optimizer: bool = True) -> Load:
    """Every step of a run (or one), its metrics and its answers, each file compared with its manifest."""
    checkpoint.find(stage, tag or None)  # with its remedies when there is nothing
    tag = tag or checkpoint.tags(stage)[0]
    steps = checkpoint.steps(stage, tag)
    if step >= 0:
        steps = {step: checkpoint.find(stage, tag, step)}
    manifests = {n: checkpoint.read_manifest(folder) for n, folder in steps.items()}
    if not optimizer:
        manifests = {n: without_optimizer(manifest) for n, manifest in manifests.items()}
    files: dict[str, Outgoing] = {}
    with ExitStack() as stack:
        total = sum(facts["size"] for manifest in manifests.values() for facts in manifest.files.values())
        bar = stack.enter_context(Progress(total / MB, f"check {stage} {tag}", "MiB"))
        for n, manifest in manifests.items():
            folder, name = steps[n], f"step_{n:06d}"
            for bad, what in checkpoint.faults(folder, manifest, on_bytes=lambda count: bar.advance(count / MB)):
                if not folder.exists():
                    raise UserError(f"{folder} has just been deleted by a training", "Run this again")
                problem = f"{folder / bad} {what}: a damaged checkpoint is not sent"
                raise UserError(problem, "Restore that file", "Choose another step with --step")
            for file, facts in manifest.files.items():
                files[f"{name}/{file}"] = Outgoing(folder / file, facts["sha256"])
            files[f"{name}/manifest.json"] = Outgoing(
                (folder / "manifest.json") if optimizer else manifest_text(manifest).encode()
            )
    for name in OF_A_RUN:
        if (path := training_file(stage, tag).with_name(name)).is_file():
            files[name] = Outgoing(_read(path))  # a training may be adding to it
    return Load(f"{stage} {tag}", files, _is_of_a_run, stage, tag, steps[max(steps)])


def without_optimizer(manifest: Manifest) -> Manifest:
    return replace(manifest, files={k: v for k, v in manifest.files.items() if not OPTIMIZER.fullmatch(k)})


def manifest_text(manifest: Manifest) -> str:
    """As `write_json` writes it."""
    return json.dumps(asdict(manifest), indent=1, ensure_ascii=False) + "\n"


def _is_of_a_run(name: str) -> bool:
    """Whether a file of the folder would be taken for a part of this run by a pull."""
    first, _, rest = name.partition("/")
    return name in OF_A_RUN or bool(STEP.fullmatch(first) if rest else UPSTREAM.fullmatch(name))


def expanded(given: str) -> Path:
    """A path as a person gives it."""
    try:
        return Path(given).expanduser()
    except RuntimeError:  # "~somebody" without an account
        raise UserError(f"{shown(given)} names nobody's folder", "Check the path") from None


def folder_load(folder: Path) -> Load:
    """All files of a folder but hidden ones, locks and parts; checkpoints in it are compared with their manifests."""
    if not folder.is_dir():
        if folder.exists():
            raise UserError(f"{folder} is no folder", "Give --model-dir the folder that it lies in")
        unset = not os.environ.get("NANOCHAT_BASE_DIR") and folder.parent == Path(folder.anchor)
        remedy = "Set NANOCHAT_BASE_DIR, which is not set" if unset else "Check --model-dir"
        raise UserError(f"the folder {folder} does not exist", remedy)
    files: dict[str, Outgoing] = {}
    paths = list(_below(folder))
    for path in paths:
        name = path.relative_to(folder).as_posix()
        if not is_inside(name) or "\\" in name:
            raise UserError(f"the file {shown(name)} in {folder} cannot be named so on the Hub", "Rename it")
        if not path.is_file():
            raise UserError(f"{path} is no regular file", "Remove it, or choose another --model-dir")
        files[name] = Outgoing(path)
    if not files:
        raise UserError(f"the folder {folder} is empty", "Choose another --model-dir")
    steps = [path.parent for path in paths if path.name == "manifest.json" and STEP.fullmatch(path.parent.name)]
    for step in steps:
        checkpoint.verify(step)
    runs = any(step.parent == folder for step in steps)
    tokenizer = all(name in files for name in TOKENIZER)
    return Load(
        folder.name or "a folder",
        files,
        lambda name: (runs and _is_of_a_run(name)) or (tokenizer and name in OLD_TOKENIZER),
    )


def _below(folder: Path) -> Iterator[Path]:
    def failed(error: OSError) -> None:
        raise UserError(f"cannot read {error.filename}: {error.strerror}", "Change its permissions")

    for place, folders, names in os.walk(folder, onerror=failed):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in folders:
            if Path(place, name).is_symlink():
                warn(f"warning: {Path(place, name)} is a link to a folder, and is left out")
        for name in sorted(names):
            if not name.startswith(".") and not LEFT.fullmatch(name):
                yield Path(place, name)


def _placed(folder: str, load: Load) -> tuple[dict[str, Outgoing], Callable[[str], bool]]:
    """The files by their path in the repository, and which of its other files go."""
    start = f"{folder}/" if folder else ""
    files = {start + name: file for name, file in load.files.items()}
    return files, lambda name: name.startswith(start) and load.stale(name.removeprefix(start))


def _tell(where: Repository, folder: str, load: Load, there: Listing | None, private: bool | None) -> None:
    """What a push would do."""
    if there is None:
        main = look(Repository(where.name, where.kind, "", where.token), first=False) if where.branch else None
        kind = "public" if private is False else "private"
        if main:
            say(f"Would make the branch {where.branch} of {where.name}")
        else:
            say(f"Would make the {kind} repository {where.name}, which this token does not see")
    elif private is not None and private != there.private:
        say(f"Would make {where.name} {'private' if private else 'public'}")
    files, stale = _placed(folder, load)
    new, gone = changes(there.files if there else {}, files, stale)
    sending = set(new)
    for name in sorted(files)[:LISTED]:
        say(f"  {file_size(files[name].size) if name in sending else 'there already':>14}  {name}")
    if len(files) > LISTED:
        say(f"  and {len(files) - LISTED:,} more")
    for name in gone[:LISTED]:
        say(f"  {'delete':>14}  {name}")
    total = sum(files[name].size for name in new)
    card = "README.md" if where.kind == "space" else "model card"
    say(
        f"Would send {len(new):,} of {len(files):,} files, {total:,} bytes, to {where.shown}/{folder}"
        + (f", and delete {len(gone):,} of an earlier push" if gone else "")
        + (f", and a {card}" if _has_card(where, load, there) else "")
        + ". Nothing was changed."
    )


def _address(where: Repository, folder: str) -> str:
    from huggingface_hub import constants

    if where.kind == "space":
        return f"{constants.ENDPOINT}/spaces/{where.name}"
    kind = "" if where.kind == "model" else f"{where.kind}s/"
    return f"{constants.ENDPOINT}/{kind}{where.name}/tree/{where.branch or 'main'}/{folder}".rstrip("/")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}", "Change its permissions") from None


def counted(number: int) -> str:
    return "1 file" if number == 1 else f"{number:,} files"
