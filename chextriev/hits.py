"""What a search finds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ImageId = str | int
"""What names a radiograph in an index: text, or an integer of 64 bits."""


@dataclass(frozen=True)
class Hit:
    """A similar radiograph. score: cosine (within .001 for an approximate index). findings: those known present.

    row: its row in the index, -1 where that has none. view: "AP" or "PA". sex, age (years): None where unknown.
    metadata: the other columns of the index. distance: of hash codes, the number of bits that differ, None for others.
    """

    image_id: ImageId
    study_id: str | None
    patient_id: str | None
    score: float
    findings: tuple[str, ...]
    view: str | None
    sex: str | None
    age: int | None
    row: int = -1
    metadata: Mapping[str, Any] = field(default_factory=dict)
    distance: int | None = None
