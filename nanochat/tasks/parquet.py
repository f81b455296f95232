"""Rows of a Hub dataset repository, read from parquet without loading them into Python objects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nanochat.console import UserError
from nanochat.corpus import repo_parquets

if TYPE_CHECKING:
    import pyarrow as pa


class Rows:
    """All rows of the repository's parquet files under a path prefix, in file order."""

    def __init__(self, repo: str, prefix: str, columns: tuple[str, ...]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        files = repo_parquets(repo, prefix)
        if not files:
            raise UserError(f"{repo} has no parquet file under {prefix}", "Set NANOCHAT_HUB_DIR to a full mirror")
        try:
            self.table: pa.Table = pa.concat_tables([pq.read_table(file, columns=list(columns)) for file in files])
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"cannot read {repo}/{prefix}: {error}", "Delete the file and get it again") from None
        absent = [column for column in columns if column not in self.table.column_names]
        if absent:
            raise UserError(f"{repo}/{prefix} lacks the column {absent[0]}", "Get the files of the original repository")

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __getitem__(self, i: int) -> dict[str, Any]:
        row: dict[str, Any] = self.table.slice(i, 1).to_pylist()[0]
        return row
