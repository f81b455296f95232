"""What was seen inside a model, as tables for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from nanochat.inference.look_checkpoints import CheckpointLook
    from nanochat.inference.looking import Alternative
    from nanochat.tokenizer import Tokenizer

INSTEAD, LOOKED_AT = 3, 3
LIKELY, UNLIKELY = 0.5, 0.1
CAPTION = (
    "Each layer's state went through the model's own final norm and head, as if the layers after it were not there (the"
    " logit lens). Layers before the last were never trained to be read like that. Attention: shares of the mean of the"
    " heads; a layer can look at a token without using what it took."
)


def print_look(seen: CheckpointLook, console: Console | None = None) -> None:
    (console or Console(highlight=False)).print(Group(*_tables(seen)))


def _tables(seen: CheckpointLook) -> Iterable[Table | Text]:
    look, tokenizer = seen.look, seen.tokenizer
    chosen = look.chosen
    ids = [token.id for token in look.tokens]
    yield Text(f"{seen.stage}/{seen.tag} step {seen.step}", style="bold")
    tokens = _table("token", "text", "probability", "likeliest in its place")
    for place, token in enumerate(look.tokens):
        mark = " <" if place == chosen.token else ""
        answers = " (answer)" if place == seen.answer else ""
        tokens.add_row(
            f"{place}{mark}",
            Text(_shown(tokenizer, token.id), _style(token.probability)) + Text(answers, "dim"),
            _percent(token.probability),
            _listed(tokenizer, token.alternatives[:INSTEAD]),
        )
    mark = " <" if chosen.token == len(ids) else ""
    tokens.add_row(f"{len(ids)}{mark}", Text("(next)", "dim"), "", _listed(tokenizer, look.next[:INSTEAD]))
    yield tokens
    came = "the next token" if chosen.id is None else _shown(tokenizer, chosen.id)
    yield Text(f"\nToken {chosen.token}, {came}: what each layer would have said, read at token {chosen.seen_from}")
    layers = _table("layer", "likeliest", "" if chosen.id is None else "this token", "attention looked at")
    for layer in chosen.layers:
        nearest = sorted(range(len(layer.mean)), key=lambda place: -layer.mean[place])[:LOOKED_AT]
        window = "" if layer.window is None else f" (window {layer.window})"
        layers.add_row(
            f"{layer.layer}{window}",
            _listed(tokenizer, layer.said),
            _percent(layer.probability),
            _Entries([f"{place}:{_shown(tokenizer, ids[place])} {layer.mean[place]:.0%}" for place in nearest]),
        )
    yield layers
    yield Text(CAPTION, "dim")


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, justify="right" if column in ("probability", "this token") else "left")
    return table


def _shown(tokenizer: Tokenizer, id: int) -> str:
    """A token in quotes. Control characters and bytes that are no character are escaped: none steers a terminal."""
    data = tokenizer.bytes_of(id)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return repr(data)[1:]
    return text if id >= len(tokenizer.ranks) else repr(text)


def _listed(tokenizer: Tokenizer, likeliest: list[Alternative]) -> _Entries:
    return _Entries([f"{_shown(tokenizer, one.id)} {_percent(one.probability)}" for one in likeliest])


class _Entries:
    """Side by side in a cell. Lines end between two of them: a token in quotes may begin with a space."""

    def __init__(self, entries: list[str]) -> None:
        self.entries = entries

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        line = ""
        for entry in self.entries:
            longer = f"{line}  {entry}" if line else entry
            if line and cell_len(longer) > options.max_width:
                yield Text(line)
                longer = entry
            line = longer
        yield Text(line)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        widths = [cell_len(entry) for entry in self.entries]
        return Measurement(max(widths, default=0), cell_len("  ".join(self.entries)))


def _percent(probability: float | None) -> str:
    if probability is None:
        return ""
    return "<0.1%" if probability < 0.001 else f"{probability:.1%}"


def _style(probability: float | None) -> str:
    if probability is None:
        return "dim"
    return "green" if probability >= LIKELY else "yellow" if probability >= UNLIKELY else "red"
