"""Columns of a CSV file (plain or gzipped), read as text and converted with errors that name the line and the field."""

import csv
import gzip
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from chextriev.errors import InvalidValue, MissingColumn, MissingFile, TruncatedArchive
from chextriev.optional import require


@dataclass(frozen=True, eq=False)
class CsvColumns:
    """The text columns of one file, all of equal length N; blank cells are empty strings."""

    path: Path
    columns: Mapping[str, Any]  # name -> pyarrow StringArray

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def text(self, name: str) -> npt.NDArray[np.object_]:
        """One column, [N] str."""
        return np.asarray(self.columns[name].to_numpy(zero_copy_only=False), dtype=object)

    def ids(self, name: str) -> npt.NDArray[np.object_]:
        """One column, [N] str; InvalidValue where a cell is blank."""
        return np.asarray(self.convert(name, lambda text: text or None, allowed="an id", dtype=object))

    def line(self, row: int) -> str:
        """The place of a row in words, for errors; the header is line 1."""
        return f"{self.path}, line {row + 2}"

    def convert(
        self, name: str, function: Callable[[str], Any], *, allowed: str, dtype: Any = np.float64
    ) -> npt.NDArray[Any]:
        """One column through `function`, called once for each different text; [N] of dtype.

        The function answers None for a text that is not allowed, which raises InvalidValue with the first such line.
        """
        encoded = self.columns[name].dictionary_encode()
        rows = encoded.indices.to_numpy(zero_copy_only=False)
        texts = encoded.dictionary.to_pylist()
        values = [function(text.strip()) for text in texts]
        refused = [index for index, value in enumerate(values) if value is None]
        if refused:
            row = int(np.flatnonzero(np.isin(rows, refused))[0])
            raise InvalidValue(f"{self.line(row)}: {name} is {texts[rows[row]]!r}; {allowed} is needed")
        lookup = np.empty(len(values), dtype=dtype)
        lookup[:] = values
        return np.asarray(lookup[rows])

    def choices(self, name: str, meanings: Mapping[str, Any], *, dtype: Any = object) -> npt.NDArray[Any]:
        """One column of a closed vocabulary, [N] of dtype; a text's meaning may be None only under dtype object."""
        allowed = ", ".join(repr(text) for text in meanings)
        found = self.convert(
            name,
            lambda text: (meanings[text],) if text in meanings else None,
            allowed=f"one of {allowed}",
            dtype=object,
        )
        result = np.empty(len(found), dtype=dtype)
        result[:] = [value for (value,) in found]
        return result

    def numbers(self, name: str, *, low: float = -math.inf, high: float = math.inf) -> npt.NDArray[np.float64]:
        """One column of finite numbers from low to high, [N] float64, NaN where blank."""

        def number(text: str) -> float | None:
            if not text:
                return math.nan
            try:
                value = float(text)
            except ValueError:
                return None
            return value if math.isfinite(value) and low <= value <= high else None

        span = "a number" if math.isinf(low) else f"a number from {low:g} to {high:g}"
        return self.convert(name, number, allowed=f"{span} (or an empty cell)")


def read_header(path: Path) -> list[str]:
    """Column names of a CSV file."""
    try:
        with _open_text(path) as stream:
            header = next(csv.reader(stream), [])
    except FileNotFoundError:
        raise MissingFile(f"{path} does not exist") from None
    except (OSError, ValueError, EOFError, csv.Error) as error:
        raise _unreadable(path, error) from None
    names = [name.strip() for name in header]
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise InvalidValue(f"{path}: column {twice[0]!r} stands twice in the header; column names are unique")
    return names


def read_csv(path: Path, *, required: Iterable[str], optional: Iterable[str] = ()) -> CsvColumns:
    """Read the named columns as text; MissingColumn where a required one is absent, others are not read."""
    header = read_header(path)
    missing = [name for name in required if name not in header]
    if missing:
        raise MissingColumn(f"{path} has no column {', '.join(missing)}; it has {', '.join(filter(None, header))}")
    names = [*required, *(name for name in optional if name in header)]
    arrow_csv, arrow = require("pyarrow.csv", extra="train"), require("pyarrow", extra="train")
    try:
        table = arrow_csv.read_csv(
            path,
            read_options=arrow_csv.ReadOptions(column_names=header, skip_rows=1),
            parse_options=arrow_csv.ParseOptions(newlines_in_values=True),
            convert_options=arrow_csv.ConvertOptions(
                include_columns=names, column_types=dict.fromkeys(names, arrow.string()), strings_can_be_null=False
            ),
        )
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    return CsvColumns(path, {name: _whole(table.column(name)) for name in names})


def rows_of(wanted: npt.NDArray[Any], ids: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Row of each wanted id in `ids` (the first, if it stands twice), [N] int64, -1 where it is not there."""
    first = {name: row for row, name in reversed(list(enumerate(ids)))}
    return np.fromiter((first.get(name, -1) for name in wanted), dtype=np.int64, count=len(wanted))


def find_csv(directory: Path, name: str) -> Path | None:
    """`name`.csv.gz or `name`.csv in a directory, or None."""
    candidates = (directory / f"{name}.csv.gz", directory / f"{name}.csv")
    return next((path for path in candidates if path.is_file()), None)


def _whole(column: Any) -> Any:
    arrow = require("pyarrow", extra="train")
    chunk = column.combine_chunks()
    return arrow.concat_arrays(chunk.chunks) if isinstance(chunk, arrow.ChunkedArray) else chunk


def _open_text(path: Path) -> Any:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", newline="", encoding="utf-8-sig")
    return path.open(newline="", encoding="utf-8-sig")


def _unreadable(path: Path, error: Exception) -> TruncatedArchive | InvalidValue:
    if path.suffix == ".gz" and not isinstance(error, UnicodeDecodeError):
        return TruncatedArchive(f"{path} is not a whole gzip file ({error}); fetch it again")
    return InvalidValue(f"{path} cannot be read as CSV in UTF-8 ({error})")
