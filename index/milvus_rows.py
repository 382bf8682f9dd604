"""Embeddings as rows of a Milvus collection: checked, converted, and inserted batch by batch."""

from typing import Any

import numpy as np
import numpy.typing as npt

from chextriev.anatomy import Finding
from chextriev.embedding_set import EmbeddingSet
from chextriev.errors import InvalidValue, MissingColumn
from chextriev.hits import ImageId
from chextriev.index.exact import unit_rows
from chextriev.index.milvus_schema import (
    ID,
    ID_BYTES,
    INTEGER,
    MIXED,
    NUMBER,
    TEXT,
    TEXT_BYTES,
    TRUTH,
    VECTOR,
    Card,
    Column,
    card_of,
    finding_field,
    plain_values,
    text_columns,
)
from chextriev.index.milvus_server import Connection
from chextriev.progress import track_batches

BATCH_BYTES = 2**24  # of one insert; a server takes at most 64 MiB


def insert(connection: Connection, name: str, card: Card, embeddings: EmbeddingSet) -> int:
    """Insert batch by batch, with progress."""
    size = max(1, BATCH_BYTES // (4 * card.width + ID_BYTES))
    parts = (slice(start, start + size) for start in range(0, len(embeddings), size))
    batches = (_rows(embeddings, part, card) for part in parts)
    for batch in track_batches(batches, "insert", size=len, total=len(embeddings), unit="vector"):
        connection.call("insert", name, batch)
    return len(embeddings)


def _rows(embeddings: EmbeddingSet, part: slice, card: Card) -> list[dict[str, Any]]:
    vectors = unit_rows(np.asarray(embeddings.vectors[part]), "vector", first=part.start)
    columns: dict[str, Any] = {ID: [plain_id(each) for each in embeddings.image_id[part]], VECTOR: vectors}
    for finding in Finding:
        columns[finding_field(finding)] = embeddings.findings[part, finding].tolist()
    given = text_columns(embeddings)
    for name, column in card.columns.items():
        values = given[name][part] if name in given else _unknown(column, len(vectors))
        columns[column.field] = plain_values(values, column)
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _unknown(column: Column, count: int) -> npt.NDArray[Any]:
    if column.kind == NUMBER:
        return np.full(count, np.nan)
    if column.kind == INTEGER:
        return np.full(count, -1)
    return np.full(count, None, object)


def check_values(embeddings: EmbeddingSet, card: Card) -> None:
    """Ids and columns are of the types of the collection, and no larger than Milvus takes.

    Raises InvalidValue, and MissingColumn for a column that has no way to say that a value is unknown.
    """
    own = card_of(embeddings, card.spec, card.device)
    values = {"image_id": embeddings.image_id, **text_columns(embeddings)}
    kinds = {"image_id": own.ids, **{name: column.kind for name, column in own.columns.items()}}
    for name, column in {"image_id": Column(ID, card.ids, 8), **card.columns}.items():
        if name not in values:
            if column.kind == TRUTH:
                raise MissingColumn(f"column {name!r} is true or false for every radiograph; give it for these as well")
        elif column.kind not in (MIXED, kinds[name]):
            raise InvalidValue(
                f"column {name!r} holds values of kind {kinds[name]}, the collection {column.kind}; make them the same"
            )
        else:
            _check_sizes(name, values[name], column)


def _check_sizes(name: str, values: npt.NDArray[Any], column: Column) -> None:
    if column.kind == TEXT:
        limit = ID_BYTES if column.field == ID else TEXT_BYTES
        row = next((row for row, each in enumerate(values) if isinstance(each, str) and not _fits(each, limit)), None)
        if row is not None:
            raise InvalidValue(f"column {name!r}, row {row}: the text has over {limit:,} bytes, or is no UTF-8")
    elif column.kind == INTEGER and len(values):
        most = 2 ** (8 * column.bytes - 1)
        if not -most <= int(values.min()) <= int(values.max()) < most:
            raise InvalidValue(
                f"column {name!r} has integers outside {-most:,} to {most - 1:,}, which the collection holds"
            )


def _fits(text: str, limit: int) -> bool:
    try:
        return len(text.encode()) <= limit
    except UnicodeEncodeError:
        return False


def plain_id(value: Any) -> ImageId:
    """An image id without the types of numpy."""
    return int(value) if isinstance(value, int | np.integer) else str(value)
