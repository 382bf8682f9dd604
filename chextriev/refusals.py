"""Radiographs that a stage leaves out, each with its reason: what every quarantine list holds."""

import csv
import io
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from chextriev.artifacts import write_text


@dataclass(frozen=True)
class Refusal:
    """A radiograph that yields nothing. row: of the table that was read. reason: name of the error. detail: its words,
    paths from the image root."""

    row: int
    image_id: str
    reason: str
    detail: str


def write_refusals(refusals: Sequence[Refusal], path: Path) -> None:
    """Write a quarantine list, one line a radiograph, so that readers see the old or the new one."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([column.name for column in fields(Refusal)])
    writer.writerows(astuple(refusal) for refusal in refusals)
    write_text(path, text.getvalue())
