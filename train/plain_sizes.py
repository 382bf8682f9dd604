"""Width and height of the images of a plain table."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from chextriev.errors import InputError, InvalidValue, MissingColumn
from chextriev.progress import track
from chextriev.train.csv_columns import CsvColumns
from chextriev.train.image_files import add_file_sizes, image_size
from chextriev.train.quarantine import Screen

_MAX_SIDE = 100_000  # pixels


def add_sizes(rows: Screen, images: CsvColumns, root: Path | None) -> None:
    """Add width and height: as stated, checked against the files' headers, or from them; with no root as stated."""
    stated = {name: _stated_sizes(rows, images, name) for name in ("width", "height")}
    rows.columns |= stated
    if root is None:
        if any(np.isnan(sizes).any() for sizes in stated.values()):
            raise MissingColumn(f"{images.path}: without a check of files, width and height are needed for every image")
        return
    add_file_sizes(rows, root)
    sizes = [_size_or_fault(path, root) for path in track(rows["path"], "image headers", total=len(rows))]
    faults = [size if isinstance(size, InputError) else _size_fault(rows, row, size) for row, size in enumerate(sizes)]
    found = np.asarray([(0, 0) if isinstance(size, InputError) else size for size in sizes], dtype=np.float64)
    rows.columns |= {"width": found.reshape(-1, 2)[:, 0], "height": found.reshape(-1, 2)[:, 1]}
    mask = np.fromiter((fault is not None for fault in faults), dtype=bool, count=len(faults))
    rows.set_aside(mask, lambda row: faults[row] or InvalidValue(str(images.path)))


def _stated_sizes(rows: Screen, images: CsvColumns, name: str) -> npt.NDArray[np.float64]:
    if name not in images:
        return np.full(len(rows), np.nan)
    return np.asarray(images.numbers(name, low=1, high=_MAX_SIDE)[rows["row"]])


def _size_or_fault(path: str, root: Path) -> tuple[int, int] | InputError:
    try:
        return image_size(root, path)
    except InputError as error:
        return error


def _size_fault(rows: Screen, row: int, size: tuple[int, int]) -> InvalidValue | None:
    stated = (rows["width"][row], rows["height"][row])
    if all(np.isnan(said) or said == found for said, found in zip(stated, size, strict=True)):
        return None
    return InvalidValue(
        f"image {rows['image_id'][row]}: stated as {stated[0]:g} x {stated[1]:g} pixels, the file has"
        f" {size[0]} x {size[1]}; boxes are in pixels of the file"
    )
