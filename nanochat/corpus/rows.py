"""Rows of tables as text: what counts as the text of a row, and the rows of a parquet file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nanochat.console import UserError
from nanochat.corpus.messages import conversation_of
from nanochat.corpus.tally import BadText, Tally, again, unreadable

BUFFER = 1 << 20  # bytes read at once
BATCH_BYTES = 8 << 20  # of a parquet file decoded at once
OTHER_COLUMN = "`nanochat dataset import --column NAME` reads another column"
LOST_ROWS = "rows that could not be read"


def row_text(row: Any, place: str, columns: tuple[str, ...]) -> str:
    """The text in the first of `columns` that the row has; `place` is for errors."""
    if isinstance(row, list) and "messages" in columns and row and isinstance(row[0], dict):
        row = {"messages": row}
    column = next((name for name in columns if isinstance(row, dict) and name in row), None)
    if column is None:
        wanted = f"neither {columns[0]} nor {columns[1]}" if len(columns) > 1 else f"no {columns[0]}"
        remedy = f'Write {{"text": "..."}} or {{"messages": [...]}}; {OTHER_COLUMN}'
        raise BadText(f"{place} has {wanted}", remedy, f"without {' or '.join(columns)}")
    text = row[column]
    if text is None:
        raise BadText(f"{place} has null as its {column}", "Remove or fill the row", "null")
    if isinstance(text, list) or (column == "messages" and isinstance(text, str) and text.lstrip()[:1] == "["):
        text = _conversation_text(text, place)
    if not isinstance(text, str):
        raise BadText(f"the {column} in {place} is not a string", "Mend or remove the row", "not strings")
    return text


def _conversation_text(messages: list[Any] | str, place: str) -> str:
    """A conversation as plain text to pretrain on."""
    try:
        found = conversation_of(messages).messages
    except UserError as error:
        raise BadText(f"{place}: {error.problem}", error.remedy, "not a conversation") from None
    # Text has no mask: an answer that is only read would be learnt here, so what is left begins after it.
    first = max((place for place, message in enumerate(found, 1) if not message.learnt), default=0)
    return "\n\n".join(f"{message.role.capitalize()}: {message.text}" for message in found[first:])


def parquet_texts(path: Path, columns: tuple[str, ...], tally: Tally) -> Iterator[str]:
    """The texts of all rows, from the first of `columns` that exists; see parquet_rows."""
    for place, row in parquet_rows(path, columns, tally, OTHER_COLUMN):
        try:
            text = row_text(row, place, tuple(row))
        except BadText as error:
            tally.bad(error)
            continue
        yield text


def parquet_rows(
    path: Path, columns: tuple[str, ...], tally: Tally, hint: str = ""
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place for errors, {column: value}) of each row, for the first of `columns` that exists.

    The tally decides about a bad row or row group. BadText if nothing in the file can be read. hint: a further remedy
    if the file has none of the columns.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # buffered, since one row group can be larger than memory
        file = pq.ParquetFile(path, buffer_size=BUFFER, pre_buffer=False, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise unreadable(path, error, again(path)) from None
    with file:
        names = file.schema_arrow.names
        column = next((name for name in columns if name in names), None)
        if column is None:
            remedy = f"Its columns are {', '.join(names)}{hint and f'; {hint}'}"
            raise BadText(f"{path} has no column {columns[0]}", remedy, f"files without a column {columns[0]}")
        footer = file.metadata
        if footer.num_rows == 0:
            raise BadText(f"{path} has no rows", again(path), "files without rows")
        before = 0  # rows of the groups before this one
        for group in range(footer.num_row_groups):
            yield from _group_rows(file, group, column, path, before, tally)
            before += footer.row_group(group).num_rows
        if before < footer.num_rows:
            problem = f"{path} has {before} rows and should have {footer.num_rows}"
            tally.bad(BadText(problem, again(path), LOST_ROWS), footer.num_rows - before)


def _group_rows(
    file: Any, group: int, column: str, path: Path, before: int, tally: Tally
) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow as pa

    footer = file.metadata.row_group(group)
    rows = max(1, min(256, BATCH_BYTES * footer.num_rows // max(1, footer.total_byte_size)))
    number, reason = 0, "there are no more"
    try:
        for batch in file.iter_batches(rows, [group], [column], use_threads=False):
            for value in batch.column(0):
                number += 1
                place = f"row {before + number} of {path}"
                try:
                    row = {column: value.as_py()}
                except UnicodeDecodeError:
                    remedy = "Write the file again from text in UTF-8"
                    tally.bad(BadText(f"{place} is not UTF-8", remedy, "not UTF-8"))
                    continue
                yield place, row
    except (pa.ArrowException, OSError) as error:
        reason = str(error).split("\n")[0][:150]
    if number < footer.num_rows:
        problem = f"cannot read rows {before + number + 1} to {before + footer.num_rows} of {path} ({reason})"
        tally.bad(BadText(problem, again(path), LOST_ROWS), footer.num_rows - number)
