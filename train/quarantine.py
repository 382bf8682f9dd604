"""Images that are left out, each with the reason: the list that goes with a study table, and how rows come to it."""

import csv
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from chextriev.errors import DuplicateImage, InputError

COLUMNS = ("image_id", "reason", "detail")


class Quarantine:
    """Collects the images left out. The reason is the name of the error class, the detail its message.

    With `strict`, the first image raises its error instead.
    """

    def __init__(self, *, strict: bool = False) -> None:
        self._strict = strict
        self._rows: list[tuple[str, str, str]] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, image_id: str, error: InputError) -> None:
        """Leave one image out."""
        if self._strict:
            raise error
        self._rows.append((image_id, type(error).__name__, str(error)))

    def counts(self) -> dict[str, int]:
        """Number of images by reason, the most frequent first."""
        return dict(Counter(reason for _, reason, _ in self._rows).most_common())

    def write(self, path: Path) -> None:
        """Write the list as CSV, sorted by image id."""
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows(sorted(self._rows))


class Screen:
    """Columns of equal length N, one of them `image_id`, from which rows are set aside one rule at a time."""

    def __init__(self, columns: Mapping[str, npt.NDArray[Any]], quarantine: Quarantine) -> None:
        self.columns = dict(columns)
        self._quarantine = quarantine

    def __len__(self) -> int:
        return len(self.columns["image_id"])

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return self.columns[name]

    def set_aside(self, mask: npt.NDArray[np.bool_], error_of: Callable[[int], InputError]) -> None:
        """Leave out the rows where `mask` [N] is true; `error_of` gives the reason by row number."""
        for row in np.flatnonzero(mask):
            self._quarantine.add(str(self["image_id"][row]), error_of(int(row)))
        if mask.any():
            self.keep(np.flatnonzero(~mask))

    def set_aside_repeated(self) -> None:
        """Keep the first row of each image id."""
        _, first = np.unique(self["image_id"].astype(str), return_index=True)
        mask = np.ones(len(self), dtype=bool)
        mask[first] = False
        self.set_aside(mask, lambda row: DuplicateImage(f"image {self['image_id'][row]} stands twice; the first stays"))

    def keep(self, rows: npt.NDArray[np.int64]) -> None:
        """Take these rows, in this order."""
        self.columns = {name: column[rows] for name, column in self.columns.items()}

    def sort(self) -> None:
        """Order the rows by image id, whatever order they came in."""
        self.keep(np.argsort(self["image_id"].astype(str), kind="stable"))
