"""Whether an engine still finds what fp32 PyTorch finds: the gate before it may serve.

Both encode the same radiographs, which search one another without those of the same patient. Three measures say how
near the engine is (cosine, neighbours in common, rank correlation), two what it costs (change of AP@5 and precision@5,
with a paired interval clustered by patient).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from chextriev.embedding_set import EmbeddingSet
from chextriev.errors import CountMismatch, InvalidSetting
from chextriev.eval.bootstrap import macro_change
from chextriev.eval.metrics import METRICS, class_means, macro_mean
from chextriev.eval.protocol import DEFAULT
from chextriev.eval.run import check_vectors, score_split
from chextriev.index.exact import exact_search, unit_rows

if TYPE_CHECKING:
    from chextriev.eval.localizer_gate import OverlapBudget

TOP = 10
"""Neighbours that are compared."""

TIE = 1e-5
"""Scores of PyTorch that are nearer than this may change places in a float32 engine."""

ENOUGH_QUERIES = 1000
"""Below, the change of a macro average says more about the few queries than about the engine, and does not decide."""

PROTOCOL = replace(DEFAULT, ks=(5,))
JUDGED = {"ap@5": "ap_over_hits", "precision@5": "precision"}
_BLOCK = 256


@dataclass(frozen=True)
class Budget:
    """What an engine may lose.

    cosine: least cosine of any radiograph's two embeddings. overlap: least mean share of PyTorch's ten neighbours that
    the engine finds. rank_correlation: least mean Spearman correlation of the whole galleries. change: greatest
    absolute change of AP@5 and precision@5.
    """

    cosine: float
    overlap: float
    rank_correlation: float
    change: float


BUDGETS = {
    "fp32": Budget(cosine=1 - 1e-4, overlap=0.999, rank_correlation=0.9999, change=1e-4),
    "fp16": Budget(cosine=1 - 1e-3, overlap=0.99, rank_correlation=0.999, change=1e-3),
    "int8": Budget(cosine=1 - 1e-2, overlap=0.95, rank_correlation=0.98, change=5e-3),
}


@dataclass(frozen=True)
class Judgement:
    """passed: whether the engine may serve. failures: the measures outside the budget, in words."""

    passed: bool
    measured: Mapping[str, Any]
    budget: "Budget | OverlapBudget"
    failures: tuple[str, ...]
    remarks: tuple[str, ...]

    def budget_as_dict(self) -> dict[str, float]:
        """Plain values."""
        return asdict(self.budget)


def budget_of(precision: str) -> Budget:
    """The budget of "fp32", "fp16" or "int8"."""
    if precision not in BUDGETS:
        raise InvalidSetting(f"no budget for precision {precision!r}; choose one of {', '.join(BUDGETS)}")
    return BUDGETS[precision]


def judge_engine(reference: EmbeddingSet, engine: EmbeddingSet, *, precision: str) -> Judgement:
    """Compare an engine's embeddings with those of fp32 PyTorch, of the same radiographs in the same order.

    With fewer than ENOUGH_QUERIES queries the verdict rests on cosine, rank correlation and overlap; of float32 engines
    then every neighbour that is not PyTorch's must tie with its last one. The changes are measured all the same. An
    engine with embeddings that have no cosine, as after an overflow, fails; they count as the opposite of PyTorch's.
    InvalidValue where PyTorch's own have none.
    """
    budget = budget_of(precision)
    if reference.image_id.tolist() != engine.image_id.tolist() or not len(reference):
        raise CountMismatch(
            f"{len(reference)} radiographs by PyTorch, {len(engine)} by the engine; the same, in the same order, are"
            " needed to compare them"
        )
    check_vectors(reference)
    engine, unusable = _with_cosines(engine, reference)
    measured = _nearness(reference, engine)
    queries, changes = _changes(reference, engine)
    measured |= changes | {"queries": queries}
    small = queries < ENOUGH_QUERIES
    failures = [f"{unusable} of {len(engine)} embeddings are zero or not finite"] if unusable else []
    failures += _failures(measured, budget, by_ties=small and precision == "fp32")
    if not small:
        failures += _change_failures(measured, budget)
    remarks = (f"small sample, n={queries}",) if small else ()
    return Judgement(not failures, measured, budget, tuple(failures), remarks)


def _with_cosines(engine: EmbeddingSet, reference: EmbeddingSet) -> tuple[EmbeddingSet, int]:
    """The engine's embeddings, the opposite of PyTorch's for those that have no cosine, and how many these are."""
    usable = np.isfinite(engine.vectors).all(axis=1) & (engine.vectors != 0).any(axis=1)  # [N] bool
    vectors = np.where(usable[:, None], engine.vectors, -reference.vectors)
    return replace(engine, vectors=vectors), int(np.count_nonzero(~usable))


def _failures(measured: Mapping[str, Any], budget: Budget, *, by_ties: bool) -> list[str]:
    found = []
    for name, least in (("cosine", budget.cosine), ("rank_correlation", budget.rank_correlation)):
        if not measured[name] >= least:
            found.append(f"{name} {measured[name]:.5f} (at least {least:g})")
    swaps = measured["unexplained_swaps"]
    if by_ties and swaps:
        found.append(f"{swaps} neighbours are others than PyTorch's, and no score ties within {TIE:g}")
    if not by_ties and not measured["overlap"] >= budget.overlap:
        found.append(f"overlap {measured['overlap']:.4f} (at least {budget.overlap:g})")
    return found


def _change_failures(measured: Mapping[str, Any], budget: Budget) -> list[str]:
    found = []
    for name in JUDGED:
        change, (low, high) = measured[name]["change"], measured[name]["interval"]
        if not abs(change) <= budget.change:
            found.append(f"{name} changed by {change:+.5f} (at most {budget.change:g})")
        if high < 0:
            found.append(f"the interval of the change of {name}, {low:+.5f} to {high:+.5f}, holds losses alone")
    return found


def _nearness(reference: EmbeddingSet, engine: EmbeddingSet) -> dict[str, Any]:
    """Cosine, overlap and rank correlation. The overlap is the lesser of two: the engine may have embedded the gallery
    too, or search one that PyTorch embedded."""
    ours, theirs = unit_rows(engine.vectors, "embedding"), unit_rows(reference.vectors, "embedding")
    patients = reference.patient_id, reference.patient_id
    wanted = exact_search(theirs, theirs, TOP, groups=patients)
    own = exact_search(ours, ours, TOP, groups=patients)[1]
    mixed = exact_search(ours, theirs, TOP, groups=patients)[1]
    cosine = np.einsum("nd,nd->n", ours, theirs, dtype=np.float64)
    overlaps = {name: _overlap(found, wanted[1]) for name, found in (("own", own), ("PyTorch's", mixed))}
    return {
        "cosine": float(cosine.min()),
        "cosine_mean": float(cosine.mean()),
        "overlap": min(overlaps.values()),
        "overlap_by_gallery": overlaps,
        "unexplained_swaps": _unexplained(own, wanted, theirs) + _unexplained(mixed, wanted, theirs),
        "rank_correlation": _rank_correlation(ours, theirs, reference.patient_id),
    }


def _overlap(found: npt.NDArray[np.int64], wanted: npt.NDArray[np.int64]) -> float:
    """Mean over queries of the share of the wanted rows [Q, k] that were found; -1 fills short lists."""
    there = wanted >= 0
    common = (wanted[:, :, None] == found[:, None, :]).any(axis=2) & there
    asked = there.sum(axis=1)
    return float((common.sum(axis=1)[asked > 0] / asked[asked > 0]).mean()) if asked.any() else 1.0


def _unexplained(
    found: npt.NDArray[np.int64],
    wanted: tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]],
    vectors: npt.NDArray[np.float32],
) -> int:
    """Neighbours that PyTorch does not have and whose score there is worse than its last one by more than a tie."""
    scores, rows = wanted
    query, rank = np.nonzero(~(found[:, :, None] == rows[:, None, :]).any(axis=2))
    score = np.einsum("nd,nd->n", vectors[query], vectors[found[query, rank]], dtype=np.float64)
    last = np.where(np.isfinite(scores), scores, np.inf).min(axis=1)
    return int((score < last[query] - TIE).sum())


def _rank_correlation(
    ours: npt.NDArray[np.float32], theirs: npt.NDArray[np.float32], patients: npt.NDArray[np.object_]
) -> float:
    """Mean over queries of Spearman's correlation between the two orders of its whole gallery, other patients only."""
    codes = np.unique(patients.astype(str), return_inverse=True)[1]
    correlations = []
    for start in range(0, len(ours), _BLOCK):
        block = slice(start, start + _BLOCK)
        scores = [side[block].astype(np.float64) @ side.T.astype(np.float64) for side in (ours, theirs)]
        for row, code in enumerate(codes[block]):
            first, second = (side[row, codes != code].argsort().argsort() for side in scores)
            if len(first) > 1:
                correlations.append(np.corrcoef(first, second)[0, 1])
    return float(np.mean(correlations)) if correlations else 1.0


def _changes(reference: EmbeddingSet, engine: EmbeddingSet) -> tuple[int, dict[str, Any]]:
    """Queries, and of each judged metric: both values, the change and its interval."""
    before, patients = score_split(reference, PROTOCOL)
    after, _ = score_split(engine, PROTOCOL)
    if not len(patients):
        nothing = {"reference": None, "engine": None, "change": 0.0, "interval": (0.0, 0.0)}
        return 0, dict.fromkeys(JUDGED, nothing)
    change, bounds = macro_change(before, after, patients, PROTOCOL)
    values = [macro_mean(class_means(scores)[1])[1][:, 0] for scores in (before, after)]
    told = {}
    for name, metric in JUDGED.items():
        row = tuple(METRICS).index(metric)
        told[name] = {
            "reference": float(values[0][row]),
            "engine": float(values[1][row]),
            "change": float(change[row, 0]),
            "interval": (float(bounds[0, row, 0]), float(bounds[1, row, 0])),
        }
    return len(patients), told
