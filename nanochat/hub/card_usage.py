"""The part of a model card that says how to run the model."""

from __future__ import annotations

import re
from typing import Any, Literal

from nanochat.checkpoint.folder import TAG
from nanochat.hub.ancestry import Ancestor
from nanochat.hub.source import REPOSITORY

Made = Literal["push", "backup", "transformers", "remote code", "mlx"]
PLACE = re.compile(r"[\w][\w./-]{0,200}", re.ASCII)  # a folder in a repository
URL = re.compile(r"[a-z][a-z0-9+]{1,20}://[\w][\w./-]{0,300}", re.ASCII)  # without a user's name or password


def origin(parent: Any) -> str:
    """The Hub repository, `owner/name`, that a checkpoint came from, by what it recorded as its parent; "" if none."""
    told = parent if isinstance(parent, str) else ""
    place = told.removeprefix("hf://").removeprefix("https://huggingface.co/")
    found = REPOSITORY.fullmatch(place)
    return found[1] if found and place != told else ""


def usage(one: Ancestor, made: Made, repo: str, inside: str) -> str:
    """repo, inside: as of `write_card`. Names that a shell could misread are replaced by a placeholder."""
    place = repo.removeprefix("hf://")
    named = REPOSITORY.fullmatch(place)
    where = named[1] if named else ""
    tag = one.tag if TAG.fullmatch(one.tag) else "TAG"
    if made == "backup":
        return _restored(one.stage, tag, repo if URL.fullmatch(repo) else f"hf://{where or 'OWNER/NAME'}")
    where = where or "OWNER/NAME"
    if made in ("transformers", "remote code"):
        return _with_transformers(one, where, made == "remote code")
    if made == "mlx":
        return f"## How to run it\n\n```bash\npip install mlx-lm\nmlx_lm.chat --model {where}\n```"
    return _pulled(one.stage, tag, where, inside)


def _chat(stage: str, tag: str) -> str:
    if stage == "base":
        return f"python -m scripts.chat_cli -i base -g {tag}       # it goes on with a text; it does not answer"
    return f"python -m scripts.chat_web -i {stage} -g {tag}"


def _pulled(stage: str, tag: str, repo: str, inside: str) -> str:
    path = f" --repo-path {inside}" if PLACE.fullmatch(inside) and ".." not in inside else ""
    commands = [f"python -m scripts.pull_from_hf --repo-id {repo}{path} --stage {stage} --target-tag {tag}"]
    commands.append(_chat(stage, tag))
    own = f"nanochat finetune --from hf://{repo} --data chats.jsonl"
    return (
        "## How to run it\n\nWith nanochat:\n\n```bash\n" + "\n".join(commands) + "\n```\n\nTo teach it chats of your "
        f"own:\n\n```bash\n{own}\n```"
    )


def _restored(stage: str, tag: str, url: str) -> str:
    return (
        "## How to run it\n\nThis is a backup of all that nanochat keeps of a training. On a machine with nanochat:\n\n"
        f"```bash\nnanochat restore {url}\n{_chat(stage, tag)}\n```\n\nThe command that was training goes on, too."
    )


def _with_transformers(one: Ancestor, repo: str, remote_code: bool) -> str:
    trust = ", trust_remote_code=True" if remote_code else ""
    note = "\nIt brings its own modeling file: read it before you trust it.\n" if trust else ""
    if one.stage == "base":
        ask = 'ids = tokenizer("The capital of France is", return_tensors="pt")'
    else:
        ask = (
            'chat = [{"role": "user", "content": "Who are you?"}]\n'
            'ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", '
            "return_dict=True)"
        )
    code = (
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f'name = "{repo}"\n'
        f"tokenizer = AutoTokenizer.from_pretrained(name{trust})\n"
        f"model = AutoModelForCausalLM.from_pretrained(name{trust})\n"
        f"{ask}\n"
        "out = model.generate(**ids, max_new_tokens=128)\n"
        'print(tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))'
    )
    back = f"python -m scripts.import_hf {repo}"
    return (
        f"## How to run it\n\nWith transformers:\n{note}\n```python\n{code}\n```\n\n"
        f"With nanochat:\n\n```bash\n{back}\n```"
    )
