"""The 18 regions and nine findings: the only place they are spelt. Their order is part of every file format.

Source: Chest ImaGenome (Wu et al., 2021) as used by CheXtriev (MICCAI 2024).
"""

from enum import IntEnum
from functools import cache
from typing import Literal, Self, TypeVar

from chextriev.errors import UnknownFinding, UnknownName, UnknownRegion

Side = Literal["right", "left"]
Member = TypeVar("Member", bound="_Labelled")


class _Labelled(IntEnum):
    """An integer that indexes arrays and carries the field's name for itself."""

    label: str

    def __new__(cls, value: int, label: str) -> Self:
        member = int.__new__(cls, value)
        member._value_ = value
        member.label = label
        return member

    @classmethod
    def labels(cls) -> tuple[str, ...]:
        """All names, in index order."""
        return tuple(member.label for member in cls)

    @classmethod
    def from_label(cls, label: str, *, where: str = "") -> Self:
        """The member called `label`; `where` names the file for the error."""
        member: Self | None = _by_label(cls).get(label)
        if member is None:
            raise cls._unknown()(label, cls.labels(), where=where)
        return member

    @classmethod
    def _unknown(cls) -> type[UnknownName]:
        return UnknownName


@cache
def _by_label(kind: type[Member]) -> dict[str, Member]:
    return {member.label: member for member in kind}


class Region(_Labelled):
    """An anatomical region; sides are the patient's, so the right lung is on the left of the picture."""

    RIGHT_LUNG = 0, "right lung"
    RIGHT_APICAL_ZONE = 1, "right apical zone"
    RIGHT_UPPER_LUNG_ZONE = 2, "right upper lung zone"
    RIGHT_MID_LUNG_ZONE = 3, "right mid lung zone"
    RIGHT_LOWER_LUNG_ZONE = 4, "right lower lung zone"
    RIGHT_HILAR_STRUCTURES = 5, "right hilar structures"
    RIGHT_COSTOPHRENIC_ANGLE = 6, "right costophrenic angle"
    LEFT_LUNG = 7, "left lung"
    LEFT_APICAL_ZONE = 8, "left apical zone"
    LEFT_UPPER_LUNG_ZONE = 9, "left upper lung zone"
    LEFT_MID_LUNG_ZONE = 10, "left mid lung zone"
    LEFT_LOWER_LUNG_ZONE = 11, "left lower lung zone"
    LEFT_HILAR_STRUCTURES = 12, "left hilar structures"
    LEFT_COSTOPHRENIC_ANGLE = 13, "left costophrenic angle"
    MEDIASTINUM = 14, "mediastinum"
    UPPER_MEDIASTINUM = 15, "upper mediastinum"
    CARDIAC_SILHOUETTE = 16, "cardiac silhouette"
    TRACHEA = 17, "trachea"

    @property
    def side(self) -> Side | None:
        """The patient's side, or None for a midline region."""
        if self < Region.LEFT_LUNG:
            return "right"
        return "left" if self < Region.MEDIASTINUM else None

    @classmethod
    def _unknown(cls) -> type[UnknownName]:
        return UnknownRegion


class Finding(_Labelled):
    """A radiological finding, present (1), absent (0) or unknown (-1) in a region or an image."""

    LUNG_OPACITY = 0, "lung opacity"
    PLEURAL_EFFUSION = 1, "pleural effusion"
    ATELECTASIS = 2, "atelectasis"
    ENLARGED_CARDIAC_SILHOUETTE = 3, "enlarged cardiac silhouette"
    PULMONARY_EDEMA = 4, "pulmonary edema/hazy opacity"
    PNEUMOTHORAX = 5, "pneumothorax"
    CONSOLIDATION = 6, "consolidation"
    HEART_FAILURE = 7, "fluid overload/heart failure"
    PNEUMONIA = 8, "pneumonia"

    @classmethod
    def _unknown(cls) -> type[UnknownName]:
        return UnknownFinding


N_REGIONS = len(Region)
N_FINDINGS = len(Finding)
UNKNOWN = -1

LATERALISED_FINDINGS = (
    *(
        f"{side} {finding.label}"
        for finding in Finding
        if finding is not Finding.ENLARGED_CARDIAC_SILHOUETTE
        for side in ("right", "left")
    ),
    Finding.ENLARGED_CARDIAC_SILHOUETTE.label,
)
"""The 17 findings that know the patient's side, in this order: the heart is one, every other finding two."""
