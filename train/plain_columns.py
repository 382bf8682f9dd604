"""The finding columns of a plain table: 1, 0, or blank for unknown, in either of its files."""

import difflib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from chextriev.anatomy import N_FINDINGS, UNKNOWN, Finding
from chextriev.errors import MissingColumn, UnknownFinding
from chextriev.train.csv_columns import CsvColumns, read_csv, read_header

FINDING_VALUES = {"1": 1, "0": 0, "": UNKNOWN, "-1": UNKNOWN, "1.0": 1, "0.0": 0, "-1.0": UNKNOWN}
_ALIKE = 0.85  # "lung_opacity" is .92 alike to "lung opacity"; "cardiac silhouette" .80 to its enlargement


def read_with_findings(path: Path, needs: Iterable[str], may: Iterable[str] = ()) -> CsvColumns:
    """Read the named columns and the findings; UnknownFinding for a column that is nearly, but not, a finding."""
    known = {*needs, *may, *Finding.labels()}
    for name in read_header(path):
        if name and name not in known and difflib.get_close_matches(name.lower(), Finding.labels(), 1, _ALIKE):
            raise UnknownFinding(name, Finding.labels(), where=f"{path}, header")
    return read_csv(path, required=tuple(needs), optional=(*may, *Finding.labels()))


def check_any_finding(images: CsvColumns, regions: CsvColumns) -> None:
    """Raise MissingColumn if neither file has a column of a finding."""
    if not any(label in table for label in Finding.labels() for table in (images, regions)):
        raise MissingColumn(
            f"{images.path} and {regions.path.name} have no column of a finding; at least one of"
            f" {', '.join(Finding.labels())} is needed"
        )


def findings_of(table: CsvColumns) -> npt.NDArray[np.int8]:
    """[N, 9] int8; a finding without a column is unknown."""
    values = np.full((len(table), N_FINDINGS), UNKNOWN, dtype=np.int8)
    for finding in Finding:
        if finding.label in table:
            values[:, finding] = table.choices(finding.label, FINDING_VALUES, dtype=np.int8)
    return values


def ignored_columns(*tables: CsvColumns) -> Iterator[str]:
    """A remark for each file with columns that were not read."""
    for table in tables:
        ignored = [name for name in read_header(table.path) if name and name not in table]
        if ignored:
            yield f"columns of {table.path.name} that mean nothing here: {', '.join(ignored)}"
