"""Anybody's vectors as embeddings: a .npy file, with ids and metadata beside it or without."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from chextriev.anatomy import N_FINDINGS, Finding
from chextriev.artifacts import file_digest
from chextriev.embedding_set import EmbeddingSet, read_embeddings
from chextriev.errors import CountMismatch, InvalidSetting, InvalidValue, MissingFile
from chextriev.index.filters import FINDINGS
from chextriev.optional import require
from chextriev.row_file import load_array

UNKNOWN = -1
OLDEST = 150
_IDS = ("image_id", "study_id", "patient_id")
_NAMED = _IDS


@dataclass(frozen=True)
class VectorFiles:
    """A source of an index: an `embed` folder, or a file of vectors [N, D] float.

    ids: of a file's rows, a .npy of integers or text, or a text file of one a line; the metadata's `image_id` or the
    row numbers if None. metadata: a Parquet table of N rows; `study_id`, `patient_id`, `view`, `sex`, `age`, `split`
    and columns named as findings (1, 0, -1) have their meaning, others can be filtered by. encoder: digest of the
    bundle that made the vectors, "" if nobody knows.
    """

    vectors: Path
    ids: Path | None = None
    metadata: Path | None = None
    encoder: str = ""

    def __post_init__(self) -> None:
        if self.vectors.suffix != ".npy" and (self.ids or self.metadata or self.encoder):
            raise InvalidSetting(
                f"{self.vectors} is not a .npy file; ids, metadata and encoder go with one, while a folder of"
                " embeddings has its own"
            )
        if self.encoder and not (len(self.encoder) == 64 and set(self.encoder) <= set("0123456789abcdef")):
            raise InvalidSetting(f"encoder {self.encoder!r:.80} is no digest; give the 64 digits that a bundle states")


def read_source(files: VectorFiles) -> EmbeddingSet:
    """The embeddings of a folder, or those made of files; the vectors are memory-mapped."""
    if files.vectors.suffix != ".npy":
        if files.vectors.is_file() or (files.vectors / "CURRENT").exists():
            raise InvalidValue(f"{files.vectors} is neither what `chextriev embed` wrote nor a .npy file of vectors")
        return read_embeddings(files.vectors)
    vectors = read_vectors(files.vectors)
    table = read_metadata(files.metadata) if files.metadata else {}
    ids = _ids(files, table, len(vectors))
    for name, column in {"ids": ids, **table}.items():
        if len(column) != len(vectors):
            raise CountMismatch(f"{name}: {len(column)} values beside {len(vectors)} vectors; give one to each")
    taken = [name for name in ("row", "finding", FINDINGS) if name in table]
    if taken:
        raise InvalidValue(f"metadata column {taken[0]!r} has a name that the index uses itself; give it another")
    nothing = np.full(len(vectors), None, object)
    labels = Finding.labels()
    findings = np.full((len(vectors), N_FINDINGS), UNKNOWN, np.int8)
    for finding in Finding:
        if finding.label in table:
            findings[:, finding] = _states(table[finding.label], finding.label)
    return EmbeddingSet(
        vectors=vectors,
        image_id=ids,
        study_id=_text(table.get("study_id", nothing)),
        patient_id=_text(table.get("patient_id", nothing)),
        findings=findings,
        metadata=_metadata({name: each for name, each in table.items() if name not in (*_NAMED, *labels)}),
        encoder_digest=files.encoder,
        digest=_digest(files),
    )


def read_vectors(path: Path) -> npt.NDArray[Any]:
    """[N, D] float32, memory-mapped where the file is float32; or uint8 of 0 and 1, the bits of hash codes."""
    vectors = load_array(path, mapped=True)
    if vectors.ndim != 2 or not vectors.shape[1]:
        raise InvalidValue(f"{path} has shape {list(vectors.shape)}; vectors [number, width] are needed")
    if vectors.dtype == np.bool_:
        return vectors.view(np.uint8)
    if vectors.dtype == np.uint8 and (not len(vectors) or vectors.max() <= 1):
        return vectors
    if vectors.dtype.kind != "f":
        raise InvalidValue(f"{path} holds {vectors.dtype}; float32 vectors are needed, or uint8 bits of 0 and 1")
    with np.errstate(over="ignore"):  # what is too large for float32 is infinite, and refused as such
        return vectors if vectors.dtype == np.float32 else vectors.astype(np.float32)


def read_id_file(path: Path) -> npt.NDArray[Any]:
    """Ids as int64 [N], or as text [N] object."""
    if path.suffix != ".npy":
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except FileNotFoundError:
            raise MissingFile(f"there is no file {path}; give a .npy of ids, or a text file of one a line") from None
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidValue(f"{path} cannot be read as ids, one a line ({error})") from error
        return np.array([line.strip() for line in lines], object)
    ids = load_array(path)
    if ids.ndim != 1 or ids.dtype.kind not in "iuU":
        raise InvalidValue(
            f"{path} holds {ids.dtype} of shape {list(ids.shape)}; ids are one row of integers or text (numpy's <U,"
            " not objects)"
        )
    return _as_ids(ids, str(path))


def read_metadata(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The columns of a Parquet table: numbers, text and true or false."""
    parquet = require("pyarrow.parquet", extra="index")
    try:
        table = parquet.read_table(path)
    except FileNotFoundError:
        raise MissingFile(f"there is no file {path}; give a Parquet table of one row a vector") from None
    except (OSError, ValueError) as error:
        raise InvalidValue(f"{path} is not a Parquet table ({error!s:.200})") from error
    return {name: _values(table.column(name), exact=name in _IDS) for name in table.column_names}


def _values(column: Any, *, exact: bool) -> npt.NDArray[Any]:
    """A column; integers of which some are missing become floats, unless it names something."""
    if exact and column.null_count:
        return np.array(column.to_pylist(), object)
    return np.asarray(column.to_numpy())


def _ids(files: VectorFiles, table: Mapping[str, npt.NDArray[Any]], count: int) -> npt.NDArray[Any]:
    named = _as_ids(table["image_id"], "column image_id") if "image_id" in table else None
    if files.ids is None:
        return np.arange(count, dtype=np.int64) if named is None else named
    ids = read_id_file(files.ids)
    if named is not None and not np.array_equal(ids.astype(str), named.astype(str)):
        raise InvalidValue(f"{files.ids} and the column image_id of {files.metadata} differ; they name the same rows")
    return ids


def _as_ids(ids: npt.NDArray[Any], where: str) -> npt.NDArray[Any]:
    if ids.dtype.kind == "u" and len(ids) and ids.max() > np.iinfo(np.int64).max:
        raise InvalidValue(f"{where} holds {ids.max()}; ids are 64-bit integers with a sign, or text")
    if ids.dtype.kind in "iu":
        return ids.astype(np.int64)
    if ids.dtype.kind == "f":
        raise InvalidValue(f"{where} holds {ids.dtype} (or misses a value); ids are integers or text")
    return ids.astype(object)


def _states(column: npt.NDArray[Any], label: str) -> npt.NDArray[np.int8]:
    """1, 0 or -1; what is missing is unknown."""
    try:
        values = np.where([value is None for value in column], np.nan, column).astype(np.float64)
    except (TypeError, ValueError):
        values = np.full(len(column), np.inf)
    values = np.where(np.isnan(values), UNKNOWN, values)
    if not np.isin(values, (UNKNOWN, 0, 1)).all():
        raise InvalidValue(f"column {label!r} holds other values than 1 (present), 0 (absent) and -1 (unknown)")
    return values.astype(np.int8)


def _text(column: npt.NDArray[Any]) -> npt.NDArray[np.object_]:
    return np.array([None if value is None or value != value else str(value) for value in column], object)


def _metadata(table: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """The columns, `age` as years with -1 for unknown; those of no type that can be filtered by are refused."""
    columns: dict[str, npt.NDArray[Any]] = {}
    for name, column in table.items():
        words = column.dtype.kind == "O" and all(isinstance(value, str | bool | None) for value in column)
        if not words and column.dtype.kind not in "iufb":
            raise InvalidValue(f"metadata column {name!r} holds {column.dtype}; numbers, text, and true or false go")
        columns[name] = column
    if "age" in columns:
        ages = columns["age"]
        if ages.dtype.kind not in "iuf":
            raise InvalidValue(f"metadata column 'age' holds {ages.dtype}; ages are years, in numbers")
        ages = np.where(np.isfinite(ages), ages, UNKNOWN)
        if len(ages) and not (ages.min() >= UNKNOWN and ages.max() <= OLDEST):
            raise InvalidValue(
                f"metadata column 'age' reaches from {ages.min()} to {ages.max()}; ages are years, 0 to {OLDEST}, and"
                " missing or -1 where unknown"
            )
        columns["age"] = ages.astype(np.int16)
    for name in ("view", "sex", "split"):
        if name in columns:
            columns[name] = _text(columns[name])
    return columns


def _digest(files: VectorFiles) -> str:
    """Identity of the files, whatever they are called."""
    content = hashlib.sha256()
    for path in (files.vectors, files.ids, files.metadata):
        content.update((file_digest(path) if path else "-").encode())
    return content.hexdigest()
