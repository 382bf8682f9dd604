"""A data set on disk -> one validated study table, with a list of the images left out and the reason for each."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chextriev.anatomy import Finding
from chextriev.artifacts import Manifest, Recipe, check_output, find_current, publishing, read_manifest, seal
from chextriev.errors import DamagedArtifact, EmptySplit, MissingFile, NotAnArtifact
from chextriev.optional import require
from chextriev.study_table import KIND, QUARANTINE_FILE, SPLITS, STUDY_FILE, StudyTable, write_study_parquet
from chextriev.train.image_files import images_digest
from chextriev.train.mimic_layout import SILVER, SPLIT_CSV, find_mimic
from chextriev.train.phantom.dataset import is_phantom
from chextriev.train.plain_table import find_plain
from chextriev.train.quarantine import Quarantine
from chextriev.train.study_source import PrepareSettings, Reading, StudySource

RULES = 2
"""Version of the rules; a change of them makes every table again."""
_ABOUT_FILES = ("MissingFile", "UnreadableImage", "InvalidValue")  # may mend without the tables changing


@dataclass(frozen=True)
class Prepared:
    """What `prepare` made or found. Facts: see `summary`."""

    directory: Path
    manifest: Manifest
    reused: bool

    @property
    def summary(self) -> dict[str, Any]:
        """Counts: kept, by split, quarantined by reason, positives by finding; layout and remarks in words."""
        facts = self.manifest.facts
        keys = ("layout", "kept", "splits", "quarantined", "positives", "remarks")
        return {"directory": str(self.directory), "reused": self.reused, **{key: facts[key] for key in keys}}

    @property
    def synthetic(self) -> bool:
        """Whether the radiographs are generated: the first of the table says so itself, wherever it lies."""
        return bool(self.manifest.facts["synthetic"])

    @property
    def counts(self) -> str:
        """What was kept and left out, in words."""
        facts = self.manifest.facts
        splits = _listing({split: facts["splits"][split] for split in SPLITS})
        left_out = f"{sum(facts['quarantined'].values()):,} quarantined{_in_brackets(facts['quarantined'])}"
        return f"{facts['kept']:,} radiographs kept ({splits}), {left_out}"

    def __str__(self) -> str:
        """One line of outcome."""
        return f"{'unchanged, reused' if self.reused else 'study table'}: {self.counts} -> {self.directory}"


def prepare(source: str | Path, out: str | Path, *, settings: PrepareSettings | None = None) -> Prepared:
    """Read the data set under `source` into a study table at `out`, rows in order of image id.

    Source is a plain table (images.csv and regions.csv), or a folder above MIMIC-CXR-JPG and Chest ImaGenome. A table
    that the same files and rules made before is reused, unless it left out images for the sake of their files. The
    images count by name and size in bytes: one replaced by another of the very same size is not noticed, and with
    settings.check_files false none is; settings.force makes the table anyway.
    Raises MissingFile if neither layout is there, a TableError for faults of the layout, EmptySplit if no image is
    left; a fault of one image puts it into quarantine.csv (with settings.strict, raises).
    """
    settings, out = settings or PrepareSettings(), Path(out)
    check_output(out, KIND)
    found = find_source(Path(source), settings)
    recipe = Recipe({"layout": found.layout, "rules": RULES, "check_files": settings.check_files}, found.parents())
    image_root = os.path.relpath(found.image_root.resolve(), out.resolve())
    current = None if settings.force else _find_current(out, recipe, found.image_root)
    if current and _still_true(current, image_root, settings):
        return Prepared(out, current, reused=True)
    quarantine = Quarantine(strict=settings.strict)
    reading = found.read(settings, quarantine)
    _check_not_empty(reading.table, quarantine, source=found)
    with publishing(out, KIND) as scratch:
        write_study_parquet(reading.table, scratch / STUDY_FILE)
        quarantine.write(scratch / QUARANTINE_FILE)
        facts = {"layout": found.layout, "image_root": image_root, **_facts(reading, quarantine)}
        manifest = seal(scratch, KIND, _with_images(recipe, reading.images), facts)
    return Prepared(out, manifest, reused=False)


def find_source(source: Path, settings: PrepareSettings) -> StudySource:
    """The reader for what lies under `source`; MissingFile says what was looked for."""
    if not source.is_dir():
        raise MissingFile(f"{source} is not a folder; a folder of a data set is needed")
    named = settings.mimic or settings.imagenome
    plain = None if named else find_plain(source)
    found: StudySource | None = plain or find_mimic(source, settings)
    if found is None:
        raise MissingFile(
            f"{source} holds no data set: neither images.csv with regions.csv (a plain table), nor, down to five"
            f" folders deep, {SPLIT_CSV}.csv.gz (MIMIC-CXR-JPG) and {SILVER}/scene_graph.zip (Chest ImaGenome)"
        )
    return found


def _with_images(recipe: Recipe, images: str | None) -> Recipe:
    """The recipe with the digest of the images, if they were looked at."""
    return Recipe(recipe.settings, {**recipe.parents, "images": images}) if images else recipe


def _find_current(out: Path, recipe: Recipe, image_root: Path) -> Manifest | None:
    """The manifest at `out` if this recipe made it and, where images count, those of its rows are what they were."""
    try:
        images = read_manifest(out, KIND).recipe.parents.get("images")
    except (NotAnArtifact, DamagedArtifact):
        return None
    current = find_current(out, KIND, _with_images(recipe, images))
    if current is None or not recipe.settings["check_files"]:
        return current
    # Which images are kept follows from the rest of the recipe, so the rows that are there name them.
    paths = require("pyarrow.parquet", extra="train").read_table(out / STUDY_FILE, columns=["path"])
    return current if images_digest(image_root, paths.column("path").to_numpy()) == images else None


def _still_true(manifest: Manifest, image_root: str, settings: PrepareSettings) -> bool:
    """Whether a table of the same recipe still holds: the images lie where it says, and none was left out for its file.

    Files may have arrived since, and strict forbids any quarantine.
    """
    reasons = manifest.facts["quarantined"]
    about_files = settings.check_files and any(reason in reasons for reason in _ABOUT_FILES)
    return manifest.facts["image_root"] == image_root and not about_files and not (settings.strict and reasons)


def _check_not_empty(table: StudyTable, quarantine: Quarantine, *, source: StudySource) -> None:
    if not len(table):
        raise EmptySplit(
            f"{source.image_root}: no image is left for any split;"
            f" {len(quarantine)} were left out{_in_brackets(quarantine.counts())}"
        )


def _facts(reading: Reading, quarantine: Quarantine) -> dict[str, Any]:
    table = reading.table
    splits: dict[str, int] = {split: int((table.split == split).sum()) for split in SPLITS}
    positives = (table.image_findings == 1).sum(axis=0)
    return {
        "synthetic": is_phantom(table.image_path(0)),
        "kept": len(table),
        "patients": len(set(table.patient_id)),
        "splits": splits,
        "quarantined": quarantine.counts(),
        "positives": {finding.label: int(positives[finding]) for finding in Finding},
        "remarks": [*reading.remarks, *_empty_splits(splits), *_unchecked(reading)],
        "row order": "image_id, ascending by code point",
    }


def _empty_splits(splits: Mapping[str, int]) -> Iterator[str]:
    for split, count in splits.items():
        if not count:
            yield f"split {split} is empty"


def _unchecked(reading: Reading) -> Iterator[str]:
    if reading.images is None:
        yield "the image files were not looked at, so that images which change later are not noticed"


def _listing(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def _in_brackets(counts: Mapping[str, int]) -> str:
    """By count, the most frequent first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return f" ({_listing(dict(ordered))})" if counts else ""
