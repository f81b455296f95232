"""What the data sets that nanochat trains on are, whose they are, and under which licence (as their pages say)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nanochat.corpus import HUB_CORPORA, TINYWORLD


@dataclass(frozen=True)
class DataSet:
    """repo: on the Hub; "" for text that nanochat writes itself. note: Markdown."""

    name: str
    repo: str
    licence: str
    note: str


CORPORA = {
    "climbmix": DataSet(
        "ClimbMix",
        HUB_CORPORA["climbmix"].repo,
        "CC BY-NC 4.0 (of NVIDIA's original)",
        "web text by NVIDIA ([nvidia/Nemotron-ClimbMix](https://huggingface.co/datasets/nvidia/Nemotron-ClimbMix)), "
        "shuffled by Andrej Karpathy",
    ),
    "fineweb-edu": DataSet(
        "FineWeb-EDU",
        HUB_CORPORA["fineweb-edu"].repo,
        "ODC-By 1.0, and Common Crawl's terms of use",
        "educational web text by Hugging Face "
        "([HuggingFaceFW/fineweb-edu](https://huggingface.co/datasets/HuggingFaceFW/fineweb-edu)), shuffled by Andrej "
        "Karpathy",
    ),
    TINYWORLD: DataSet(
        "tiny world",
        "",
        "MIT",
        "stories, entries and questions about an invented world, written by nanochat's own code",
    ),
}
CHATS = {
    "SmolTalk": DataSet("SmolTalk", "HuggingFaceTB/smol-smoltalk", "Apache 2.0", "synthetic chats by Hugging Face"),
    "MMLU": DataSet("MMLU", "cais/mmlu", "MIT", "multiple-choice questions by Hendrycks et al."),
    "GSM8K": DataSet("GSM8K", "openai/gsm8k", "MIT", "word problems by OpenAI"),
    "ARC": DataSet("ARC", "allenai/ai2_arc", "CC BY-SA 4.0", "science questions by the Allen Institute for AI"),
    "TinyWorld": DataSet("TinyWorld", "", "MIT", "chats about an invented world, written by nanochat's own code"),
    "Spelling": DataSet("SpellingBee", "", "MIT", "spelling and counting letters, written by nanochat's own code"),
}
# By the name that a mixture gives it.
IN_MIXTURES = {
    **{name: CHATS[name] for name in ("SmolTalk", "MMLU", "GSM8K", "TinyWorld")},
    **dict.fromkeys(("ARC-Easy", "ARC-Challenge"), CHATS["ARC"]),
    **dict.fromkeys(("SpellingBee", "SimpleSpelling"), CHATS["Spelling"]),
}
# Nothing of a person's own files is told, not even their names: a card is read by others.
OWN_TEXT = DataSet("the author's own text", "", "not stated", "not published with the model")
OWN_CHATS = DataSet("the author's own conversations", "", "not stated", "not published with the model")
ENTRY = re.compile(r"(?:^|, )(.+?) (\d[\d,]*\d|\d)(?: x ([\d.e+-]+))?(?=, |$)")  # of a mixture's description


def used(stage: str, settings: Mapping[str, Any], dataset: str) -> Iterator[tuple[DataSet, str]]:
    """What a stage was trained on, each set with how much of it; nothing where that was not recorded.

    settings: those that decided the result. dataset: of pretraining.
    """
    if stage == "base":
        if dataset:
            yield CORPORA.get(dataset, OWN_TEXT), ""
        return
    if stage == "rl":
        task = settings.get("task")
        if isinstance(task, str) and task in IN_MIXTURES:
            yield IN_MIXTURES[task], "questions"
        return
    mixture = settings.get("mixture")
    for name, number, epochs in ENTRY.findall(mixture if isinstance(mixture, str) else "")[:100]:
        found = IN_MIXTURES.get(name, OWN_CHATS)
        part = f" of {name}" if found.name != name and found != OWN_CHATS else ""
        yield found, f"{number} conversations{part}" + (f", {epochs} times" if epochs else "")
