"""Write a phantom data set as PhysioNet's mirrors unpack MIMIC-CXR-JPG 2.0.0 and Chest ImaGenome 1.0.0.

The artefact (kind "phantom data set") holds `mimic-cxr-jpg/2.0.0/` with the JPEG tree and the split and metadata
tables, `chest-imagenome/1.0.0/silver_dataset/` with the zipped scene graphs and splits, and `README.txt`.
"""

import csv
import gzip
import io
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from chextriev.anatomy import Finding
from chextriev.artifacts import Recipe, publishing, seal
from chextriev.progress import track
from chextriev.train.phantom.cases import SYNTHETIC, Case, check_size, iterate_cases
from chextriev.train.phantom.exposure import draw_radiograph
from chextriev.train.phantom.scene_graph import write_member

KIND = "phantom data set"
DRAWING = 2
"""Version of the drawing: raised whenever the same seed would give other pictures or findings."""

MIMIC = Path("mimic-cxr-jpg/2.0.0")
IMAGENOME = Path("chest-imagenome/1.0.0/silver_dataset")
_JPEG_QUALITY = 90
_IMAGE_DESCRIPTION = 0x010E  # EXIF tag
_IMAGENOME_SPLITS = {"train": "train", "validate": "valid", "test": "test"}
_VIEWS = {"AP": "antero-posterior", "PA": "postero-anterior", "LATERAL": "lateral"}
_METADATA = (
    *("dicom_id", "subject_id", "study_id", "PerformedProcedureStepDescription", "ViewPosition", "Rows", "Columns"),
    *("StudyDate", "StudyTime", "ProcedureCodeSequence_CodeMeaning", "ViewCodeSequence_CodeMeaning"),
    "PatientOrientationCodeSequence_CodeMeaning",
)
_README = f"""Generated chest radiographs: {SYNTHETIC}.

Every picture was drawn by a program (chextriev data phantom); none shows a person. The folders imitate the layout of
MIMIC-CXR-JPG 2.0.0 and Chest ImaGenome 1.0.0 so that software can be tried without those data. Each JPEG says
"{SYNTHETIC}" in its comment and in its EXIF image description, each scene graph in reason_for_exam.
A few images have a fault on purpose (a lateral view; a box that is missing, empty or outside), as the real data do.
"""


@dataclass(frozen=True)
class PhantomSummary:
    """What was written; `faulty`, the images with a fault on purpose by kind, count in `images` and nowhere else."""

    patients: int
    images: int
    splits: dict[str, int]
    positives: dict[str, int]
    faulty: dict[str, int]

    def sentence(self) -> str:
        """The summary in words."""
        splits = ", ".join(f"{count} {name}" for name, count in self.splits.items())
        faults = ", ".join(f"{count} {name}" for name, count in self.faulty.items())
        return (
            f"{self.images} synthetic radiographs of {self.patients} phantoms: {splits};"
            f" and {sum(self.faulty.values())} with a fault on purpose, for quarantine ({faults or 'none'})"
        )


def write_phantoms(out: Path, *, patients: int, seed: int) -> PhantomSummary:
    """Generate a data set at `out`: the same bytes for the same arguments.

    Raises InvalidSetting for fewer than 10 patients or a negative seed, OutputExists where `out` holds something else.
    """
    check_size(patients, seed)
    with publishing(Path(out), KIND) as scratch:
        cases = _write_images(scratch, patients, seed)
        _write_tables(scratch, cases)
        (scratch / "README.txt").write_text(_README)
        summary = _summarise(cases, patients)
        seal(scratch, KIND, phantom_recipe(patients=patients, seed=seed), {"synthetic": SYNTHETIC, **asdict(summary)})
    return summary


def phantom_recipe(*, patients: int, seed: int) -> Recipe:
    """What a phantom data set depends on."""
    return Recipe({"patients": patients, "seed": seed, "drawing": DRAWING})


def is_phantom(image: Path) -> bool:
    """Whether an image file says of itself, in its comment, that it is a phantom; false if it cannot be read."""
    try:
        with Image.open(image, formats=("JPEG",)) as opened:
            return opened.info.get("comment") == SYNTHETIC.encode()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False


def _write_images(root: Path, patients: int, seed: int) -> list[Case]:
    """Draw every case and write its JPEG file and scene graph."""
    (root / IMAGENOME).mkdir(parents=True)
    cases: list[Case] = []
    with zipfile.ZipFile(root / IMAGENOME / "scene_graph.zip", "w") as archive:
        for group in track(iterate_cases(patients, seed), "phantoms", total=patients, unit="patient"):
            for case in group:
                folder = root / MIMIC / case.folder
                folder.mkdir(parents=True)
                _write_jpeg(folder / f"{case.image_id}.jpg", _pixels(case))
                write_member(archive, case)
            cases += group
    return cases


def _pixels(case: Case) -> npt.NDArray[np.uint8]:
    pixels = draw_radiograph(case.layout, case.presentation, np.random.default_rng([case.pixel_seed, 0]))
    if case.fault != "lateral view":
        return pixels
    # No lateral anatomy is drawn: both halves laid over each other stand in for it.
    return pixels // 2 + pixels[:, ::-1] // 2


def _write_jpeg(path: Path, pixels: npt.NDArray[np.uint8]) -> None:
    exif = Image.Exif()
    exif[_IMAGE_DESCRIPTION] = SYNTHETIC
    Image.fromarray(pixels).save(path, "JPEG", quality=_JPEG_QUALITY, comment=SYNTHETIC.encode(), exif=exif)


def _write_tables(root: Path, cases: Sequence[Case]) -> None:
    ids = [(case.image_id, case.study_id, case.patient_id, case.split) for case in cases]
    mimic, splits = root / MIMIC, root / IMAGENOME / "splits"
    _write_csv(mimic / "mimic-cxr-2.0.0-split.csv.gz", ("dicom_id", "study_id", "subject_id", "split"), ids)
    _write_csv(mimic / "mimic-cxr-2.0.0-metadata.csv.gz", _METADATA, [_metadata(case) for case in cases])
    splits.mkdir()
    header = ("", "subject_id", "study_id", "dicom_id", "path", "ViewPosition")
    for split, name in _IMAGENOME_SPLITS.items():
        rows = [
            (case.patient_id, case.study_id, case.image_id, f"{case.folder}/{case.image_id}.dcm", case.view)
            for case in cases
            if case.split == split and case.view != "LATERAL"
        ]
        _write_csv(splits / f"{name}.csv", header, [(number, *row) for number, row in enumerate(rows)])
    # The real list names the images of the gold-standard patients; phantoms have no gold standard.
    _write_csv(splits / "images_to_avoid.csv", ("subject_id", "study_id", "dicom_id"), [])


def _metadata(case: Case) -> tuple[object, ...]:
    pose, lateral = case.layout.pose, case.fault == "lateral view"
    procedure = "CHEST (PORTABLE AP)" if pose.view == "AP" else "CHEST (PA AND LAT)"
    step = (case.image_id, case.patient_id, case.study_id, procedure, case.view, pose.height, pose.width)
    posture = "Recumbent" if pose.view == "AP" and not lateral else "Erect"
    return (*step, case.study_date, case.study_time, procedure, _VIEWS[case.view], posture)


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table, compressed if the name says so; the compressed file holds no time and no name."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([header, *rows])
    content = text.getvalue().encode()
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def _summarise(cases: Sequence[Case], patients: int) -> PhantomSummary:
    good = [case for case in cases if case.fault is None]
    return PhantomSummary(
        patients=patients,
        images=len(cases),
        splits={split: sum(case.split == split for case in good) for split in _IMAGENOME_SPLITS},
        positives={finding.label: sum(case.presentation.has(finding) for case in good) for finding in Finding},
        faulty=dict(Counter(case.fault for case in cases if case.fault is not None)),
    )
