"""What searches found, as a Parquet table."""

from collections.abc import Sequence
from pathlib import Path

from chextriev.hits import Hit
from chextriev.optional import require
from chextriev.scratch import scratch_beside


def write_results(found: Sequence[Sequence[Hit]], path: Path) -> None:
    """Write a row a hit: query (its number), rank from 1, id (integer or text), score float32."""
    pyarrow, parquet = require("pyarrow", extra="index"), require("pyarrow.parquet", extra="index")
    rows = [(query, rank, hit) for query, hits in enumerate(found) for rank, hit in enumerate(hits, start=1)]
    table = pyarrow.table(
        {
            "query": pyarrow.array([query for query, _, _ in rows], pyarrow.int64()),
            "rank": pyarrow.array([rank for _, rank, _ in rows], pyarrow.int32()),
            "id": pyarrow.array([hit.image_id for _, _, hit in rows], None if rows else pyarrow.string()),
            "score": pyarrow.array([hit.score for _, _, hit in rows], pyarrow.float32()),
        }
    )
    with scratch_beside(path, Path.touch) as scratch:
        parquet.write_table(table, scratch)
        scratch.replace(path)
