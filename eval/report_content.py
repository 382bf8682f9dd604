"""What a report says, and that its parts belong together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isclose
from typing import Any

from chextriev.errors import CountMismatch, InvalidSetting
from chextriev.eval.adjacency_picture import RegionLinks
from chextriev.eval.cases import Case
from chextriev.eval.evaluation import Evaluation
from chextriev.eval.markdown import METRIC_NAMES

USUAL_K = 5
"""What the first screen shows, where it was evaluated."""


@dataclass(frozen=True)
class Table:
    """Text in rows; the first column names the row, the others are set flush right."""

    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    caption: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.header):
                raise CountMismatch(f"a row of {len(row)} cells under {len(self.header)} headings: {row[0]!r}")


@dataclass(frozen=True)
class Section:
    """A ready part of a report, such as strata, significance or occlusion.

    text: paragraphs, an empty line between them. svg: a picture that stands by itself, with an aria-label, <desc> or
    <title>. data: what the tables and the picture show as plain values, for the JSON twin.
    """

    title: str
    text: str = ""
    tables: Sequence[Table] = ()
    svg: str | None = None
    data: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class ReportContent:
    """What a report says.

    data_note: which radiographs these are. warning: shown as a banner where they are synthetic or a subset; may be
    empty. rows: systems side by side, each under a name of its own, the one under study first; all under one protocol
    on the same queries in the same gallery. metric: of the first picture, by its name in `METRICS`. sections: further
    ready parts, in this order. bench: what `chextriev bench index` wrote. provenance: digest by name. remarks:
    sentences for the end. links: which regions carry the same findings; None leaves that section out.
    """

    title: str
    data_note: str
    rows: Sequence[tuple[str, Evaluation]]
    cases: Sequence[Case] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)
    remarks: Sequence[str] = ()
    warning: str = ""
    links: RegionLinks | None = None
    sections: Sequence[Section] = ()
    bench: Mapping[str, Any] | None = None
    metric: str = "precision"

    def __post_init__(self) -> None:
        if not self.rows:
            raise InvalidSetting("a report without an evaluation; give at least one (label, evaluation) row")
        if self.metric not in METRIC_NAMES:
            raise InvalidSetting(f"no metric {self.metric!r}; choose one of {', '.join(METRIC_NAMES)}")
        labels = [label for label, _ in self.rows]
        for place, row in enumerate(self.rows):
            if row[0] in labels[:place]:
                raise InvalidSetting(f"two rows are named {row[0]!r}; give each system a name of its own")
            _check_comparable(row, self.rows[0])

    @property
    def shown_k(self) -> int:
        """The list length of the first screen."""
        ks = self.rows[0][1].protocol.ks
        return USUAL_K if USUAL_K in ks else ks[0]


def _check_comparable(row: tuple[str, Evaluation], first: tuple[str, Evaluation]) -> None:
    """The same protocol, split, queries and gallery, as far as an evaluation tells."""
    (label, other), (first_label, one) = row, first
    if (other.protocol, other.split) != (one.protocol, one.split):
        raise InvalidSetting(f"row {label!r} has another protocol or split than {first_label!r}; use one")
    if set(other.lists.query_ids) != set(one.lists.query_ids):
        raise CountMismatch(f"row {label!r} answers other queries than {first_label!r}; they do not compare")
    if other.overall.n_gallery != one.overall.n_gallery:
        sizes = f"{other.overall.n_gallery} radiographs, {first_label!r} {one.overall.n_gallery}"
        raise CountMismatch(f"row {label!r} searches {sizes}; they do not compare")
    for k in one.protocol.ks:
        if _chance(other, k).keys() != _chance(one, k).keys():
            raise CountMismatch(f"row {label!r} has other findings than {first_label!r}; they do not compare")
        for name, expected in _chance(one, k).items():
            if not _alike(_chance(other, k)[name], expected):
                raise CountMismatch(
                    f"row {label!r} has another chance than {first_label!r}, {name}: the radiographs searched or their"
                    " findings differ; they do not compare"
                )


def _chance(evaluation: Evaluation, k: int) -> dict[str, float | None]:
    per_finding = evaluation.overall.at_k[k].chance.per_finding
    return {name: measures.precision for name, measures in per_finding.items()}


def _alike(one: float | None, other: float | None) -> bool:
    return one == other if one is None or other is None else isclose(one, other, abs_tol=1e-9)
