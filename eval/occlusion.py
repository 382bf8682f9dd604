"""Which regions retrieval depends on: hide a group of them in the gallery or in the query, and measure the change.

The hidden and the visible embedding of a radiograph are paired by its image id. The published code shuffles one of its
two data sets and pairs them by position, so that a query is compared with the labels and the exclusions of another one.

Everything else is as in an evaluation: queries with at least one finding, exact cosine search, the radiograph itself
and its patient left out by id.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from chextriev.anatomy import Finding
from chextriev.embedding_set import EmbeddingSet
from chextriev.errors import CountMismatch, InvalidSetting, InvalidValue
from chextriev.eval.bootstrap import macro_change
from chextriev.eval.candidates import Candidates
from chextriev.eval.metrics import METRICS, Counts, FindingScores, Values, score_queries
from chextriev.eval.occlusion_result import MEASURES, Change, Effect, GroupEffects, Side
from chextriev.eval.protocol import MIN_QUERIES, Protocol
from chextriev.eval.run import check_vectors, score_split
from chextriev.index.exact import exact_search

Vectors = npt.NDArray[np.float32]
Effects = dict[str, dict[str, GroupEffects]]


def measure_occlusion(
    visible: EmbeddingSet, hidden: Mapping[str, EmbeddingSet], protocol: Protocol, *, sides: Sequence[Side]
) -> Effects:
    """Effects by side and group, from embeddings with nothing hidden and, by group, with the group hidden.

    protocol: one list length, the patient excluded. A finding with fewer than 20 queries is not scored. Raises
    CountMismatch where a hidden set is not of the same radiographs, InvalidValue for vectors without a cosine or where
    no finding has enough queries.
    """
    if not sides or not hidden:
        raise InvalidSetting("nothing is hidden anywhere; name at least one side (gallery, query) and one group")
    if len(protocol.ks) != 1 or not (protocol.exclude_same_patient and protocol.keep_zero_hit_queries):
        raise InvalidSetting(
            f"protocol {protocol.name}: an occlusion study has one k, excludes the patient by id and keeps queries"
            " without a hit, so that the same queries are compared"
        )
    vectors = {group: align(visible, embeddings, group) for group, embeddings in hidden.items()}
    before, patients = score_split(visible, protocol)
    search = _Search(visible, protocol)
    variants = [(side, group) for side in sides for group in vectors]
    after = [search.scores(vectors[group], side) for side, group in variants]
    effects = _effects(before, after, patients, protocol)
    found: Effects = {side: {} for side in sides}
    for (side, group), effect in zip(variants, effects, strict=True):
        found[side][group] = effect
    return found


def align(visible: EmbeddingSet, hidden: EmbeddingSet, group: str) -> Vectors:
    """The hidden vectors [N, D] in the order of the visible ones, by image id."""
    check_vectors(hidden)
    row_of = {name: row for row, name in enumerate(hidden.image_id)}
    missing = sum(1 for name in visible.image_id if name not in row_of)
    if missing or len(hidden) != len(visible):
        raise CountMismatch(
            f"{group} hidden: {len(hidden)} radiographs beside {len(visible)} with nothing hidden, {missing} of them"
            " without a partner; images changed in between: remove the folder of results and run again"
        )
    return hidden.vectors[[row_of[name] for name in visible.image_id]]


class _Search:
    """The queries of a population and what is left out of their lists, for any vectors of the same radiographs."""

    def __init__(self, visible: EmbeddingSet, protocol: Protocol) -> None:
        self._visible, self._ks = visible, protocol.ks
        self._patients = np.unique(visible.patient_id.astype(str), return_inverse=True)[1]
        self._queries = np.flatnonzero((visible.findings == 1).any(axis=1))
        self._relevant = Candidates(self._queries, self._patients).count(visible.findings)[1]

    def scores(self, hidden: Vectors, side: Side) -> list[FindingScores]:
        """Of the lists where these vectors [N, D] stand in for one side."""
        asked, gallery = (hidden, self._visible.vectors) if side == "query" else (self._visible.vectors, hidden)
        groups = (self._patients[self._queries], self._patients)
        neighbours = exact_search(asked[self._queries], gallery, max(self._ks), groups=groups)[1]
        return score_queries(
            neighbours, self._visible.findings, queries=self._queries, relevant=self._relevant, ks=self._ks
        )


def _effects(
    before: Sequence[FindingScores], after: Sequence[Sequence[FindingScores]], patients: Counts, protocol: Protocol
) -> list[GroupEffects]:
    """One for each of `after`. The same patients are drawn for all: the variants stand where list lengths do."""
    scored = [finding for finding in Finding if len(before[finding].positions) >= MIN_QUERIES]
    if not scored:
        raise InvalidValue(f"no finding has {MIN_QUERIES} queries in this split; choose a larger one, or --split all")
    pairs = {finding: (_packed([before] * len(after), finding), _packed(after, finding)) for finding in scored}
    changes = {}
    for finding, (first, second) in pairs.items():
        ours = np.arange(len(first.positions))
        alone = [FindingScores(ours, first.values)], [FindingScores(ours, second.values)]
        changes[finding] = _changes(*alone, patients[first.positions], protocol)
    firsts, seconds = (list(column) for column in zip(*pairs.values(), strict=True))
    macro = _changes(firsts, seconds, patients, protocol)
    total = sum(len(first.positions) for first in firsts)
    return [
        GroupEffects(
            per_finding={
                finding.label: Effect(
                    len(before[finding].positions), changes[finding][variant] if finding in changes else {}
                )
                for finding in Finding
            },
            macro=Effect(total, macro[variant]),
        )
        for variant in range(len(after))
    ]


def _packed(variants: Sequence[Sequence[FindingScores]], finding: Finding) -> FindingScores:
    """The scores of one finding in all variants: values [n, metrics, variants]."""
    values = np.concatenate([scores[finding].values for scores in variants], axis=2)
    return FindingScores(variants[0][finding].positions, values)


def _changes(
    before: Sequence[FindingScores], after: Sequence[FindingScores], patients: Counts, protocol: Protocol
) -> list[dict[str, Change]]:
    """Of the mean over findings, for each variant."""
    change, bounds = macro_change(before, after, patients, protocol)
    first, second = (np.mean([scores.values.mean(axis=0) for scores in which], axis=0) for which in (before, after))
    rows = {measure: tuple(METRICS).index(measure) for measure in MEASURES}
    return [
        {
            measure: Change(
                visible=float(first[row, variant]),
                hidden=float(second[row, variant]),
                change=float(change[row, variant]),
                interval=_interval(bounds[:, row, variant]),
            )
            for measure, row in rows.items()
        }
        for variant in range(change.shape[1])
    ]


def _interval(bounds: Values) -> tuple[float, float]:
    return float(bounds[0]), float(bounds[1])
