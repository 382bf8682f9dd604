"""Radiographs from an archive, with no boxes and no table, into a plain table: what `data prepare` reads.

The artefact (kind "imported radiographs") holds `images/` with 8-bit grey PNG files, `images.csv` (keyed hashes as ids,
view, sex, age band; findings unknown), `regions.csv` (proposed boxes), `proposals.csv` (where the boxes come from, how
sure they are, and what the quality check said) and `quarantine.csv` for what was left out. Nothing else of a file goes
further.
"""

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TextIO

from PIL import Image

from chextriev.anatomy import Finding, Region
from chextriev.artifacts import Manifest, Recipe, check_output, publishing, seal
from chextriev.errors import DuplicateImage, EmptySplit, InvalidSetting, UnfitRadiograph
from chextriev.localizer import Localizer
from chextriev.progress import track
from chextriev.quality import Quality, check_quality
from chextriev.radiograph import Radiograph
from chextriev.radiograph_image import RadiographImage
from chextriev.reading import ReadSettings, read_images
from chextriev.reading.dicom_file import process_key
from chextriev.refusals import Refusal, write_refusals

KIND = "imported radiographs"
METHOD = 1
"""Part of the recipe; raise it when the same files begin to give another table."""

IMAGES, REGIONS, PROPOSALS, QUARANTINE = "images.csv", "regions.csv", "proposals.csv", "quarantine.csv"
_FOLDER = "images"
_IMAGE_COLUMNS = (
    *("image_id", "file", "width", "height", "patient_id", "study_id", "view", "sex", "age"),
    *Finding.labels(),
)
_REGION_COLUMNS = ("image_id", "region", "x1", "y1", "x2", "y2")
_PROPOSAL_COLUMNS = ("image_id", "boxes_source", "mean_confidence", "quality", "reasons", "remarks")
_QUICK = 1
"""PNG's compression: 9 makes files a tenth smaller and takes ten times as long."""


@dataclass(frozen=True)
class ImportSettings:
    """How files are read, and what becomes of them.

    strict: leave out what fails the quality check, rather than only say so. keep_names: pictures keep the names of
    their files as ids, where nobody can be known by them; else keyed hashes of their pixels are ids.
    """

    reading: ReadSettings = field(default_factory=ReadSettings)
    strict: bool = False
    keep_names: bool = False


def import_radiographs(
    source: str | Path, out: str | Path, localizer: Localizer, *, settings: ImportSettings | None = None
) -> Manifest:
    """Read every file of a folder or a zip archive, propose boxes and write the plain table at `out`.

    What cannot be read, stands twice or, with settings.strict, fails the quality check is listed in `quarantine.csv`.
    EmptySplit where nothing is left; nothing is written then.
    """
    settings, out = settings or ImportSettings(), Path(out)
    check_output(out, KIND)
    if Path(source).resolve() in (out.resolve(), *out.resolve().parents):
        raise InvalidSetting(f"{out} lies in {source}, so that the next import would read it; name a folder elsewhere")
    recipe = Recipe(
        {"method": METHOD, "strict": settings.strict, "keep_names": settings.keep_names},
        {"localizer": localizer.digest},
    )
    with publishing(out, KIND) as scratch:
        (scratch / _FOLDER).mkdir()
        refusals: list[Refusal] = []
        with _Tables(scratch) as tables:
            for image in _readable(source, settings.reading, refusals):
                _take(_named(image, settings), localizer, tables, refusals, strict=settings.strict)
        if not tables.kept:
            raise EmptySplit(f"no radiograph is left of {source}: {_reasons(refusals) or 'it holds no file'}")
        write_refusals(refusals, scratch / QUARANTINE)
        facts = {
            "radiographs": tables.kept,
            "quarantined": dict(Counter(refusal.reason for refusal in refusals).most_common()),
            "unfit": tables.unfit,
            "remarks": dict(tables.remarks.most_common()),
            "boxes_source": localizer.source,
        }
        return seal(scratch, KIND, recipe, facts)


class _Tables:
    """The three CSV files and the images, written row by row."""

    def __init__(self, root: Path) -> None:
        self.root, self.kept, self.unfit = root, 0, 0
        self.seen: set[str] = set()
        self.remarks: Counter[str] = Counter()
        self._files: list[TextIO] = []
        self._images, self._regions, self._proposals = (
            self._open(name, columns)
            for name, columns in ((IMAGES, _IMAGE_COLUMNS), (REGIONS, _REGION_COLUMNS), (PROPOSALS, _PROPOSAL_COLUMNS))
        )

    def __enter__(self) -> "_Tables":
        return self

    def __exit__(self, *_: object) -> None:
        for stream in self._files:
            stream.close()

    def add(self, radiograph: Radiograph, confidence: float, quality: Quality) -> None:
        name, (height, width) = f"{_FOLDER}/{radiograph.image_id}.png", radiograph.pixels.shape
        Image.fromarray(radiograph.pixels).save(self.root / name, "PNG", compress_level=_QUICK)
        person = (radiograph.patient_id or radiograph.image_id, radiograph.study_id or radiograph.image_id)
        known = (radiograph.view, radiograph.sex, radiograph.age)
        unknown = [""] * len(Finding)
        self._images.writerow((radiograph.image_id, name, width, height, *person, *known, *unknown))
        corners = radiograph.boxes.xyxy.tolist()
        self._regions.writerows(
            (radiograph.image_id, region.label, *box) for region, box in zip(Region, corners, strict=True)
        )
        reasons = "; ".join(reason.text for reason in quality.reasons)
        about = (f"{confidence:.3f}", f"{quality.score:.3f}", reasons, "; ".join(radiograph.remarks))
        self._proposals.writerow((radiograph.image_id, radiograph.boxes_source, *about))
        self.kept += 1
        self.unfit += not quality.fit
        self.remarks.update(radiograph.remarks)

    def _open(self, name: str, columns: Sequence[str]) -> Any:
        stream = (self.root / name).open("w", newline="", encoding="utf-8")
        self._files.append(stream)
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        return writer


def _readable(source: str | Path, reading: ReadSettings, refusals: list[Refusal]) -> Iterator[RadiographImage]:
    found: Iterable[RadiographImage | Refusal] = read_images(source, settings=reading)
    for item in track(found, "import", unit="file"):
        if isinstance(item, Refusal):
            refusals.append(item)
        else:
            yield item


def _named(image: RadiographImage, settings: ImportSettings) -> RadiographImage:
    """The image under an id that can name a file: a hash, or the path of a picture."""
    if settings.keep_names and image.is_picture:
        return replace(image, image_id=image.image_id.replace("/", "_"))
    return image.named_by(settings.reading.key or process_key())


def _take(
    image: RadiographImage, localizer: Localizer, tables: _Tables, refusals: list[Refusal], *, strict: bool
) -> None:
    place = tables.kept + len(refusals)
    if image.image_id in tables.seen:
        words = f"image {image.image_id} stands twice; the first stays"
        refusals.append(Refusal(place, image.image_id, DuplicateImage.__name__, words))
        return
    tables.seen.add(image.image_id)
    located = localizer.locate([image.pixels])
    quality = check_quality(image.pixels, located=located)
    if strict and not quality.fit:
        refusals.append(Refusal(place, image.image_id, UnfitRadiograph.__name__, str(quality)))
        return
    radiograph = image.with_boxes(located.boxes[0], located.source)
    tables.add(radiograph, float(located.confidence[0].mean()), quality)


def _reasons(refusals: Sequence[Refusal]) -> str:
    counts = Counter(refusal.reason for refusal in refusals)
    return ", ".join(f"{reason} {count:,}" for reason, count in counts.most_common())
