"""A backup without a training: what is here, once."""

from __future__ import annotations

from nanochat import checkpoint
from nanochat.console import UserError
from nanochat.hub.backup import Order
from nanochat.hub.beside import Beside
from nanochat.hub.run_files import LOG, Unit, corpus_of, parent_of
from nanochat.paths import STAGES, base_dir


def send_now(url: str, stage: str = "", tag: str = "", token: str = "") -> bool:
    """Send the models of a stage and tag ("": all, and the one written last); whether all of it is verified."""
    stages = [stage] if stage else list(STAGES)
    have = {each: checkpoint.tags(each) for each in stages}
    newest = {each: checkpoint.steps(each, tags[0]) for each, tags in have.items() if tags}
    if not tag and newest:
        last = max(newest, key=lambda each: max(folder.stat().st_mtime for folder in newest[each].values()))
        tag = have[last][0]
    units = [Unit(each, tag) for each in stages if tag and checkpoint.steps(each, tag)]
    if not units:
        what = f"{stage or 'checkpoint'} {tag}".strip()
        raise UserError(f"there is no {what} in {base_dir()} to back up", "See: nanochat checkpoints ls")
    own = {unit.key for unit in units}
    for unit in list(units):
        parent = parent_of(list(checkpoint.steps(unit.stage, unit.tag).values())[-1])
        if parent and parent.key not in own:
            units.append(parent)
            own.add(parent.key)
    speedrun = not stage and (base_dir() / LOG).is_file()
    corpus = next(filter(None, (corpus_of(unit) for unit in units)), "")
    beside = Beside(url, token)
    beside.start()
    beside.keep(Order(units, corpus, speedrun))
    try:
        return beside.finish()
    finally:
        beside.leave()
