"""Patients of a phantom data set: who they are, and what each of their radiographs shows, before any pixel is drawn.

Patient i depends on the seed and i alone, so a larger set begins with the smaller one.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from chextriev.anatomy import Finding
from chextriev.errors import InvalidSetting
from chextriev.study_table import Split
from chextriev.train.phantom.findings import Presentation, sample_presentation
from chextriev.train.phantom.layout import Anatomy, Layout, sample_layout

SYNTHETIC = "synthetic phantom, not a patient"
MIN_PATIENTS = 10
_IMAGES_PER_PATIENT = (0.50, 0.33, 0.12, 0.05)  # one to four
_UNCHANGED = 0.35  # follow-ups that show the findings of the radiograph before
# Of ten patients in a row, which go where: 70 / 10 / 20 %.
_SPLIT_OF_TEN: tuple[Split, ...] = (
    *("train", "train", "test", "train", "validate"),
    *("train", "train", "test", "train", "train"),
)
# Prime, so that multiples of anything smaller spread over all eight-digit ids without a repeat.
_ID_PRIME = 9_999_991

Fault = Literal["lateral view", "missing box", "empty box", "box outside the image"]
FAULTS: tuple[Fault, ...] = ("lateral view", "missing box", "empty box", "box outside the image")
PATIENTS_PER_FAULT = 20  # every twentieth patient has one more image, with the next fault


@dataclass(frozen=True, eq=False)
class Case:
    """One radiograph to be: identity, geometry, findings, and the seed of its pixels.

    fault: why the rules of the reference leave the image out, or None for a good one.
    """

    image_id: str
    study_id: int
    patient_id: int
    split: Split
    sex: str
    age: int
    study_order: int
    study_date: str
    study_time: str
    layout: Layout
    presentation: Presentation
    pixel_seed: int
    fault: Fault | None = None

    @property
    def view(self) -> str:
        """ViewPosition as MIMIC-CXR-JPG spells it."""
        return "LATERAL" if self.fault == "lateral view" else self.layout.pose.view

    @property
    def folder(self) -> str:
        """The folder of the study, relative to the root of MIMIC-CXR-JPG."""
        return f"files/p{self.patient_id // 1_000_000}/p{self.patient_id}/s{self.study_id}"


def check_size(patients: int, seed: int) -> None:
    """Refuse a data set in which a split would be empty, and negative seeds."""
    if patients < MIN_PATIENTS:
        raise InvalidSetting(
            f"patients is {patients}; at least {MIN_PATIENTS} are needed so that train, validate and test have some"
        )
    if seed < 0:
        raise InvalidSetting(f"seed is {seed}; a non-negative integer is needed")


def iterate_cases(patients: int, seed: int) -> Iterator[list[Case]]:
    """The cases of each patient, in order."""
    for index in range(patients):
        yield sample_patient(index, seed)


def sample_patient(index: int, seed: int) -> list[Case]:
    """All cases of one patient."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(index,)))
    sex, age = "FM"[int(rng.integers(2))], int(np.clip(rng.normal(62, 17), 18, 90))
    anatomy = Anatomy.sample(rng, sex=sex, age=age)
    count = 1 + int(rng.choice(len(_IMAGES_PER_PATIENT), p=_IMAGES_PER_PATIENT))
    fault = FAULTS[index // PATIENTS_PER_FAULT % len(FAULTS)] if index % PATIENTS_PER_FAULT == 7 else None
    shown = sample_presentation(rng)
    cases = []
    for order in range(count + (fault is not None)):
        if order and rng.random() > _UNCHANGED:
            shown = sample_presentation(rng)
        case = _sample_case(rng, (index, order), anatomy, shown)
        cases.append(replace(case, sex=sex, age=age, fault=fault if order == count else None))
    return cases


def _sample_case(rng: np.random.Generator, place: tuple[int, int], anatomy: Anatomy, shown: Presentation) -> Case:
    index, order = place
    enlarged, failing = shown.has(Finding.ENLARGED_CARDIAC_SILHOUETTE), shown.has(Finding.HEART_FAILURE)
    words = rng.integers(0, 2**32, 5, dtype=np.uint64)
    return Case(
        image_id="-".join(f"{word:08x}" for word in words),
        study_id=50_000_000 + (1 + 8 * index + order) * 7_654_321 % _ID_PRIME,
        patient_id=10_000_000 + (1 + index) * 3_141_593 % _ID_PRIME,
        split=_SPLIT_OF_TEN[index % 10],
        sex="",
        age=0,
        study_order=order + 1,
        study_date=f"{2110 + index % 80 + order}{1 + int(rng.integers(12)):02d}{1 + int(rng.integers(28)):02d}",
        study_time=f"{int(rng.integers(24)):02d}{int(rng.integers(60)):02d}{int(rng.integers(60)):02d}.000",
        layout=sample_layout(rng, anatomy, enlarged=enlarged, failing=failing),
        presentation=shown,
        pixel_seed=int(rng.integers(2**63)),
    )
