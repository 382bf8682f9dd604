"""Two libraries of retrieval metrics beside ours, on the metrics that they define alike.

pytrec_eval (the package pytrec-eval-terrier) is trec_eval in C; ranx is compiled by numba. Both ask for mappings of
text ids to scores and relevances, and both take `map` over all hits among the candidates, which is our `ap_over_r`.
Sources: https://github.com/terrierteam/pytrec_eval, https://github.com/AmenRa/ranx
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from chextriev.eval.candidates import Candidates
from chextriev.eval.metrics import METRICS, Counts, RankedHits, Values
from chextriev.optional import require

SHARED = ("precision", "hit_rate", "rr", "ap_over_r", "ndcg")
"""The metrics that all have; trec_eval cuts the reciprocal rank at no k, so it has `rr` at the length of the lists."""

Relevances = dict[str, dict[str, int]]
Runs = dict[str, dict[str, float]]
Answers = dict[tuple[str, int], Values]
"""[Q] float64 of each metric and k."""


@dataclass(frozen=True, eq=False)
class OneFindingLists:
    """Ranked lists of queries that all have one finding; the query itself is not a candidate.

    neighbours: [Q, K] int64 gallery rows, -1 fills the end. has_it: [G] bool. queries: [Q] gallery row of each.
    """

    neighbours: Counts
    has_it: npt.NDArray[np.bool_]
    queries: Counts

    def head(self, count: int) -> "OneFindingLists":
        """The first of them."""
        return OneFindingLists(self.neighbours[:count], self.has_it, self.queries[:count])

    def as_mappings(self) -> tuple[Relevances, Runs]:
        """What must be found and what was found, by text ids; ids of queries sort as their rows do."""
        names = np.array([f"image-{row:06d}" for row in range(len(self.has_it))])
        hits, ranks = names[self.has_it].tolist(), self.neighbours.shape[1]
        falling = [float(ranks - rank) for rank in range(ranks)]
        relevant, found = {}, {}
        found_names = np.append(names, "")[self.neighbours].tolist()
        for place, (own, line) in enumerate(zip(names[self.queries].tolist(), found_names, strict=True)):
            relevant[f"query-{place:06d}"] = {name: 1 for name in hits if name != own}
            found[f"query-{place:06d}"] = {name: score for name, score in zip(line, falling, strict=True) if name}
        return relevant, found


@dataclass(frozen=True)
class Library:
    """How a library is asked.

    module, extra: what is imported. convert: its own objects from lists, for these ks. call: what it is timed by.
    answers: what the call returned, as numbers of each query.
    """

    module: str
    convert: Callable[[OneFindingLists, Sequence[int]], Any]
    call: Callable[[Any], Any]
    answers: Callable[[Any, Sequence[int]], Answers]

    def of(self, lists: OneFindingLists, ks: Sequence[int]) -> Answers:
        """Every number that it shares with ours."""
        return self.answers(self.call(self.convert(lists, ks)), ks)


def ours(lists: OneFindingLists, ks: Sequence[int]) -> Answers:
    """The same from our metrics, beginning with the arrays."""
    labels = lists.has_it[:, None].astype(np.int8)
    _, relevant = Candidates(lists.queries, dropped=lists.queries).count(labels)
    hits = np.append(lists.has_it, False)[lists.neighbours]  # [Q, K] bool; row -1 is filler
    ranked = RankedHits(hits, relevant[:, 0])
    scores = {name: METRICS[name](ranked, ks) for name in SHARED}
    return {(name, k): score[:, column] for name, score in scores.items() for column, k in enumerate(ks)}


def largest_difference(some: Answers, others: Answers) -> dict[str, float]:
    """Of each metric, over all queries and the ks that both have."""
    apart: dict[str, float] = {}
    for name, k in sorted(some.keys() & others.keys()):
        here = float(np.abs(some[name, k] - others[name, k]).max(initial=0.0))
        apart[name] = max(apart.get(name, 0.0), here)
    return apart


TREC_NAMES = {"precision": "P", "hit_rate": "success", "ap_over_r": "map_cut", "ndcg": "ndcg_cut"}
RANX_NAMES = {"precision": "precision", "hit_rate": "hit_rate", "rr": "mrr", "ap_over_r": "map", "ndcg": "ndcg"}


def _to_trec(lists: OneFindingLists, ks: Sequence[int]) -> Any:
    relevant, found = lists.as_mappings()
    asked = {f"{name}.{','.join(map(str, ks))}" for name in TREC_NAMES.values()} | {"recip_rank"}
    return require("pytrec_eval", extra="bench").RelevanceEvaluator(relevant, asked), found


def _call_trec(built: Any) -> Any:
    evaluator, found = built
    return evaluator.evaluate(found)


def _from_trec(returned: Any, ks: Sequence[int]) -> Answers:
    lines = [returned[name] for name in sorted(returned)]
    asked = {(name, k): f"{theirs}_{k}" for name, theirs in TREC_NAMES.items() for k in ks}
    asked["rr", max(ks)] = "recip_rank"
    return {key: np.array([line[theirs] for line in lines]) for key, theirs in asked.items()}


def _to_ranx(lists: OneFindingLists, ks: Sequence[int]) -> Any:
    ranx = require("ranx", extra="bench")
    relevant, found = lists.as_mappings()
    asked = [f"{name}@{k}" for name in RANX_NAMES.values() for k in ks]
    return ranx.Qrels(relevant), ranx.Run(found), asked


def _call_ranx(built: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numba warns of a cast in ranx's precision when it compiles it
        return require("ranx", extra="bench").evaluate(*built, return_mean=False, save_results_in_run=False)


def _from_ranx(returned: Any, ks: Sequence[int]) -> Answers:
    return {(name, k): np.asarray(returned[f"{theirs}@{k}"]) for name, theirs in RANX_NAMES.items() for k in ks}


LIBRARIES: Mapping[str, Library] = {
    "pytrec_eval-terrier": Library("pytrec_eval", _to_trec, _call_trec, _from_trec),
    "ranx": Library("ranx", _to_ranx, _call_ranx, _from_ranx),
}
