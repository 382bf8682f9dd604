"""How fast evaluation is: search and metrics in arrays against a plain loop over queries, on made-up embeddings."""

from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from chextriev.anatomy import N_FINDINGS
from chextriev.errors import InvalidSetting
from chextriev.eval.metrics import METRICS, Counts, Values, class_means, score_queries
from chextriev.index.exact import exact_search
from chextriev.machine import describe_machine, median_ratio, time_in_turn


@dataclass(frozen=True)
class EvalBenchSettings:
    """What is measured: `radiographs` embeddings, searched with themselves; the test split of MIMIC-CXR has 3,191."""

    radiographs: int = 3191
    width: int = 1024
    ks: tuple[int, ...] = (3, 5, 10)
    repeats: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.width, self.repeats, *self.ks) < 1 or self.radiographs <= max(self.ks):
            raise InvalidSetting(
                "bench eval: width, repeats and k are at least 1, and radiographs more than the largest k"
            )


def bench_eval(settings: EvalBenchSettings) -> dict[str, Any]:
    """Seconds (medians) of precision@k by both ways and their ratio; both must agree. JSON-able."""
    rng = np.random.default_rng(settings.seed)
    vectors = rng.standard_normal((settings.radiographs, settings.width), np.float32)
    labels = (rng.random((settings.radiographs, N_FINDINGS)) < 0.3).astype(np.int8)
    answers: dict[str, Values] = {}

    def in_arrays() -> None:
        answers["arrays"] = _in_arrays(vectors, labels, settings.ks)

    def in_a_loop() -> None:
        answers["loop"] = _in_a_loop(vectors, labels, settings.ks)

    seconds = time_in_turn({"loop": in_a_loop, "arrays": in_arrays}, repeats=settings.repeats)
    return {
        "settings": asdict(settings),
        "machine": describe_machine(),
        "seconds": {name: median(times) for name, times in seconds.items()},
        "arrays_times_faster": median_ratio(seconds["loop"], seconds["arrays"]),
        "largest_difference": float(np.abs(answers["loop"] - answers["arrays"]).max()),
    }


def _in_arrays(vectors: npt.NDArray[np.float32], labels: npt.NDArray[np.int8], ks: tuple[int, ...]) -> Values:
    """precision@k [9, ks]."""
    rows: Counts = np.arange(len(vectors))
    _, neighbours = exact_search(vectors, vectors, max(ks), groups=(rows, rows))
    relevant = np.tile((labels == 1).sum(axis=0), (len(rows), 1)) - labels.astype(np.int64)
    means = class_means(score_queries(neighbours, labels, queries=rows, relevant=relevant, ks=ks))[1]
    return means[:, list(METRICS).index("precision")]


def _in_a_loop(vectors: npt.NDArray[np.float32], labels: npt.NDArray[np.int8], ks: tuple[int, ...]) -> Values:
    """precision@k [9, ks], a query, a finding and a k at a time, as published evaluations are written."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    sums, counts = np.zeros((N_FINDINGS, len(ks))), np.zeros(N_FINDINGS)
    for query in range(len(unit)):
        scores = unit @ unit[query]
        scores[query] = -np.inf
        ranked = np.argsort(-scores)
        for finding in range(N_FINDINGS):
            if labels[query, finding]:
                counts[finding] += 1
                for column, k in enumerate(ks):
                    sums[finding, column] += sum(labels[row, finding] for row in ranked[:k]) / k
    means: Values = sums / counts[:, None]
    return means
