"""What a search finds."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Hit:
    """A similar radiograph. score: cosine (within .001 for an approximate index). findings: those known present.

    row: its row in the index. view: "AP" or "PA". sex, age (years): None where unknown.
    """

    image_id: str
    study_id: str | None
    patient_id: str | None
    score: float
    findings: tuple[str, ...]
    view: str | None
    sex: str | None
    age: int | None
    row: int
