"""What an evaluation says: averages with chance and interval for each k, overall and within each view."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from chextriev.errors import CountMismatch
from chextriev.eval.protocol import Protocol
from chextriev.eval.remarks import remarks_on_findings
from chextriev.eval.scored import ScoredQueries

if TYPE_CHECKING:
    from chextriev.eval.strata import Strata
    from chextriev.eval.view_baseline import ViewBaseline

Interval = tuple[float, float] | None


@dataclass(frozen=True)
class Measures:
    """The metrics of one finding or one average ("M" in the JSON); None where there is no query.

    n: queries of the finding; for a macro average, the sum over findings.
    """

    n: int
    ap_over_hits: float | None
    ap_over_min_k_r: float | None
    ap_over_r: float | None
    precision: float | None
    hit_rate: float | None
    rr: float | None
    ndcg: float | None


@dataclass(frozen=True)
class Averages:
    """Each finding by name, and the averages over findings as in `chextriev.eval.averages.Means`.

    n_classes: over how many findings the macro average goes.
    """

    per_finding: Mapping[str, Measures]
    macro: Measures
    weighted: Measures
    micro: Measures
    n_classes: int


@dataclass(frozen=True)
class Graded:
    """nDCG of hits graded by the labels that they share with the query, its chance beside it; None without a query."""

    n: int
    value: float | None
    chance: float | None


@dataclass(frozen=True)
class ScoresAtK:
    """Measured and expected by chance at one k.

    interval: bounds of the measured macro average by metric; finding_interval: the same by finding. Both are empty
    where none were drawn. graded: nDCG by shared labels, over all queries (see `chextriev.eval.graded`).
    """

    measured: Averages
    chance: Averages
    graded: Graded
    interval: Mapping[str, Interval] = field(default_factory=dict)
    finding_interval: Mapping[str, Mapping[str, Interval]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The object under "k" in the JSON."""
        content = {**asdict(self.measured), "ndcg_jaccard": asdict(self.graded), "chance": asdict(self.chance)}
        if self.interval:
            by_finding = {name: _lists(bounds) for name, bounds in self.finding_interval.items()}
            content["interval"] = {"macro": _lists(self.interval), "per_finding": by_finding}
        return content

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ScoresAtK":
        """The reverse of `as_dict`."""
        bounds = values.get("interval", {"macro": {}, "per_finding": {}})
        by_finding = {name: _pairs(of_finding) for name, of_finding in bounds["per_finding"].items()}
        graded = Graded(**values["ndcg_jaccard"])
        return cls(_averages(values), _averages(values["chance"]), graded, _pairs(bounds["macro"]), by_finding)


@dataclass(frozen=True)
class Scoring:
    """The numbers of one population of radiographs.

    n_queries: radiographs with a finding, each a query. n_gallery: radiographs searched. n_patients: of the queries.
    n_short: queries with fewer candidates than the largest k. at_k is empty where there are too few queries to show.
    """

    n_queries: int
    n_gallery: int
    n_patients: int
    n_short: int
    at_k: Mapping[int, ScoresAtK]

    def as_dict(self) -> dict[str, Any]:
        """Counts, and the scores under "k"."""
        counts = {name: getattr(self, name) for name in ("n_queries", "n_gallery", "n_patients", "n_short")}
        return {**counts, "k": {str(k): scores.as_dict() for k, scores in self.at_k.items()}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Scoring":
        """The reverse of `as_dict`."""
        at_k = {int(k): ScoresAtK.from_dict(scores) for k, scores in values["k"].items()}
        return cls(values["n_queries"], values["n_gallery"], values["n_patients"], values["n_short"], at_k)


@dataclass(frozen=True, eq=False)
class RankedLists:
    """What was found: ids of the queries [Q] and of their neighbours [Q, K], with cosine scores [Q, K] float32.

    A list shorter than K ends in None and -inf.
    """

    query_ids: npt.NDArray[np.object_] = field(repr=False)  # what is printed of it tells of nobody
    neighbour_ids: npt.NDArray[np.object_] = field(repr=False)
    scores: npt.NDArray[np.float32] = field(repr=False)

    def __post_init__(self) -> None:
        if self.neighbour_ids.shape != self.scores.shape or len(self.query_ids) != len(self.scores):
            shapes = f"{list(self.neighbour_ids.shape)} and {list(self.scores.shape)}"
            raise CountMismatch(f"lists of {len(self.query_ids)} queries have neighbours and scores of shapes {shapes}")


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One set of embeddings under one protocol.

    views: the same numbers with queries and gallery of one view only, since view position dominates frozen features;
    views_withheld: those with too few queries to show, and what stands for their number. strata: groups of queries
    against the whole gallery. view_baseline: what a ranking by view alone would reach; None where no view is known.
    scored: what was measured of every query, in the order of `lists`. parents: digests of the embeddings and of the
    encoder that made them.
    """

    protocol: Protocol
    split: str
    overall: Scoring
    views: Mapping[str, Scoring]
    lists: RankedLists
    scored: ScoredQueries
    parents: Mapping[str, str]
    views_withheld: Mapping[str, str] = field(default_factory=dict)
    strata: "Strata | None" = None
    view_baseline: "ViewBaseline | None" = None

    def as_dict(self) -> dict[str, Any]:
        """The content of `evaluation.json`."""
        return {
            "name": self.scored.name,
            "protocol": self.protocol.name,
            "settings": self.protocol.as_dict(),
            "split": self.split,
            "evaluated": dict(self.parents),
            "remarks": list(remarks_on_findings(self.protocol, self.overall.at_k)),
            **self.overall.as_dict(),
            "view": {view: scoring.as_dict() for view, scoring in self.views.items()},
            "view_withheld": dict(self.views_withheld),
            "strata": None if self.strata is None else self.strata.as_dict(),
            "view_baseline": None if self.view_baseline is None else self.view_baseline.as_dict(),
        }


def _averages(values: Mapping[str, Any]) -> Averages:
    per_finding = {name: Measures(**measures) for name, measures in values["per_finding"].items()}
    macro, weighted, micro = (Measures(**values[name]) for name in ("macro", "weighted", "micro"))
    return Averages(per_finding, macro, weighted, micro, values["n_classes"])


def _lists(bounds: Mapping[str, Interval]) -> dict[str, list[float] | None]:
    return {name: None if pair is None else list(pair) for name, pair in bounds.items()}


def _pairs(bounds: Mapping[str, Any]) -> dict[str, Interval]:
    return {name: (pair[0], pair[1]) if pair else None for name, pair in bounds.items()}
