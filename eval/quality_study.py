"""How the quality check judges radiographs, copies with faults made on purpose, and pictures of other things."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from chextriev.errors import InvalidSetting, MissingFile
from chextriev.eval.quality_copies import Copy, copies, located_in
from chextriev.optional import require
from chextriev.progress import track
from chextriev.quality import Quality, check_quality
from chextriev.quality_model import QualityModel, shipped_model
from chextriev.radiograph import Radiograph
from chextriev.study_table import StudyTable

Pixels = npt.NDArray[np.uint8]
PICTURES = (".png", ".jpg", ".jpeg", ".gif", ".npy", ".dcm")


@dataclass(frozen=True)
class CopyRow:
    """One kind of copy: shares of the n images. expected: None where none is to be refused.

    refused: for any reason. named: for the expected one. with_boxes: refused, where the boxes are known as well; None
    where they do not apply. median: of the scores.
    """

    name: str
    expected: str | None
    n: int
    refused: float
    named: float | None
    with_boxes: float | None
    median: float


@dataclass(frozen=True)
class OthersRow:
    """Pictures of other things in one folder: how many there are, how many are refused, and which are not."""

    folder: str
    n: int
    refused: int
    passed: tuple[str, ...]


@dataclass(frozen=True)
class QualityStudy:
    """The measured table. refused_ids: images that are refused as they are, with the reason."""

    split: str
    source: str
    rows: tuple[CopyRow, ...]
    others: tuple[OthersRow, ...]
    refused_ids: tuple[tuple[str, str], ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def study_quality(
    table: StudyTable, *, split: str = "test", others: Sequence[Path] = (), model: QualityModel | None = None
) -> QualityStudy:
    """Judge the images of a split, their copies, and the pictures in folders, all of which are to be refused."""
    chosen = shipped_model() if model is None else model
    part = table.of_split(split)
    radiographs = [part.radiograph(row) for row in track(range(len(part)), "read")]
    plain = [check_quality(each.pixels, model=chosen) for each in radiographs]
    refused = tuple(
        (each.image_id, str(quality)) for each, quality in zip(radiographs, plain, strict=True) if not quality.fit
    )
    rows = tuple(_row(copy, radiographs, chosen) for copy in track(copies(), "copies", unit="kind"))
    return QualityStudy(split, chosen.source, rows, tuple(_others(folder, chosen) for folder in others), refused)


def _row(copy: Copy, radiographs: Sequence[Radiograph], model: QualityModel) -> CopyRow:
    found, boxed = [], []
    for each in radiographs:
        pixels, part = copy.make(each)
        found.append(check_quality(pixels, model=model))
        if part is not None:
            boxed.append(check_quality(pixels, located=located_in(each, part), model=model))
    named = [any(reason.kind == copy.expected for reason in quality.reasons) for quality in found]
    return CopyRow(
        name=copy.name,
        expected=copy.expected,
        n=len(found),
        refused=_share_refused(found),
        named=None if copy.expected is None else float(np.mean(named)),
        with_boxes=_share_refused(boxed) if boxed else None,
        median=float(np.median([quality.score for quality in found])),
    )


def _share_refused(found: Sequence[Quality]) -> float:
    return float(np.mean([not quality.fit for quality in found]))


def _others(folder: Path, model: QualityModel) -> OthersRow:
    judged = [(name, check_quality(pixels, model=model)) for name, pixels in pictures_in(folder)]
    if not judged:
        raise MissingFile(f"{folder} holds no picture; {', '.join(PICTURES)} are read")
    passed = tuple(name for name, quality in judged if quality.fit)
    return OthersRow(folder.name, len(judged), len(judged) - len(passed), passed)


def pictures_in(folder: Path) -> Iterator[tuple[str, Pixels]]:
    """Name and grey levels of every picture of a folder that can be read, by name; a .npy stack of 0..1 gives several.

    Files that hold no pixels, or ones that cannot be decoded, are passed over, and pictures of one grey level.
    """
    if not folder.is_dir():
        raise InvalidSetting(f"{folder} is not a folder; give one that holds pictures ({', '.join(PICTURES)})")
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in PICTURES and path.is_file():  # a named pipe would wait for a writer
            yield from ((name, pixels) for name, pixels in _pictures(path) if pixels.min() < pixels.max())


def _pictures(path: Path) -> Iterator[tuple[str, Pixels]]:
    if path.suffix.lower() == ".npy":
        for number, image in enumerate(np.load(path, allow_pickle=False)):
            yield f"{path.name} {number}", _scaled(image)
    elif path.suffix.lower() == ".dcm":
        yield from _dicom(path)
    else:
        content = path.read_bytes()
        try:
            with Image.open(io.BytesIO(content)) as image:
                yield path.name, np.asarray(image.convert("L"))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # as Pillow says of damaged files
            return


def _dicom(path: Path) -> Iterator[tuple[str, Pixels]]:
    pydicom = require("pydicom", extra="dicom")
    pixels_of = require("pydicom.pixels", extra="dicom").pixel_array
    try:
        image = pixels_of(pydicom.dcmread(path, force=True))
    except (AttributeError, KeyError, ValueError, RuntimeError, NotImplementedError, TypeError):
        return
    while image.ndim > 2:
        image = image.mean(axis=-1) if image.shape[-1] == 3 else image[0]
    yield path.name, _scaled(image)


def _scaled(image: npt.NDArray[Any]) -> Pixels:
    low, high = float(image.min()), float(image.max())
    return np.asarray((image - low) * (255 / max(high - low, 1e-9)), np.uint8)
