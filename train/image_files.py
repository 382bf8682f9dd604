"""What can be told of image files without decoding them. Messages name them relative to the image root."""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from chextriev.artifacts import digest_of
from chextriev.errors import ImageError, MissingFile, UnreadableImage
from chextriev.progress import track
from chextriev.train.quarantine import Screen


def add_file_sizes(rows: Screen, root: Path) -> None:
    """Add `bytes`, the sizes of the image files (column path); images whose file is missing or empty are left out.

    One look at a directory entry an image; no file is opened.
    """
    rows.columns["bytes"] = _sizes(root, rows["path"])

    def fault(row: int) -> ImageError | MissingFile:
        path = rows["path"][row]
        if rows["bytes"][row] < 0:
            return MissingFile(f"{path} does not exist; fetch it, or leave the image out of the table")
        return UnreadableImage(f"{path} is empty (0 bytes); fetch it again")

    rows.set_aside(rows["bytes"] <= 0, fault)


def images_digest(root: Path, paths: npt.NDArray[np.object_]) -> str:
    """The digest, as of `digest_of_sizes`, of the files that are there now; a missing file counts as -1 bytes."""
    return digest_of_sizes(paths, _sizes(root, paths))


def digest_of_sizes(paths: Iterable[str], sizes: npt.NDArray[np.int64]) -> str:
    """Identity of images, from their relative paths and their sizes in bytes.

    It holds no time, so that a copied data set keeps it. An image replaced by one of the very same size is not noticed.
    """
    return digest_of(dict(zip(paths, sizes.tolist(), strict=True)))


def image_size(root: Path, path: str) -> tuple[int, int]:
    """(width, height) in pixels from the header of a JPEG or PNG file; UnreadableImage if it is not such a file."""
    try:
        with Image.open(root / path, formats=("JPEG", "PNG")) as image:
            return image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnreadableImage(f"{path}: not a readable JPEG or PNG image ({type(error).__name__})") from None


def _sizes(root: Path, paths: npt.NDArray[np.object_]) -> npt.NDArray[np.int64]:
    """[N] int64 bytes; -1 for a file that is not there."""
    whole = (os.path.join(root, path) for path in track(paths, "image files", total=len(paths)))
    return np.fromiter(map(_size, whole), dtype=np.int64, count=len(paths))


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1
