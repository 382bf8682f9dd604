"""How fast evaluation is: `chextriev bench eval`."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from chextriev.errors import InvalidSetting, MissingDependency
from chextriev.eval.bench_bootstrap import SHARES, WITHOUT_FINDING, bootstrap_works
from chextriev.eval.bench_libraries import LIBRARIES, Library, OneFindingLists, largest_difference, ours
from chextriev.eval.bench_loop import (
    evaluation_in_arrays,
    published_evaluation,
    published_evaluation_searched_once,
)
from chextriev.eval.bench_targets import targets
from chextriev.machine import describe_machine, median_ratio, time_in_turn
from chextriev.optional import require

NOTES = (
    "libraries: ours begins with the arrays and returns every query's number of five metrics at each k; the library's"
    " call alone begins with its own objects, already built, and returns the same, and targets are judged by that."
    " From arrays adds what it took to build those objects once. A first call of each, which compiles ranx, is not"
    " counted. loop: the published evaluation runs anew for each k; one pass for all k is beside it. Works of a part"
    " are timed in turn, ratios are medians of neighbouring turns. load_average: of the last minute before and after;"
    " what exceeds one busy core is work of others, which disturbs"
)


@dataclass(frozen=True)
class EvalBenchSettings:
    """What is measured, on made-up numbers.

    lists: ranked lists of max(ks) for the libraries, of queries of one finding that `positives` of `gallery` rows have;
    few, since trec_eval and ranx take longer with more and ours does not. radiographs, width: embeddings searched with
    themselves against the published loop; the test split of MIMIC-CXR has 3,191. queries, draws: of the bootstrap.
    libraries: of `LIBRARIES`; those that are not installed are left out. repeats: of every work, in turn.
    """

    lists: int = 100_000
    gallery: int = 1_000
    positives: int = 20
    radiographs: int = 3_191
    width: int = 1_024
    queries: int = 2_800
    draws: int = 10_000
    ks: tuple[int, ...] = (3, 5, 10)
    libraries: tuple[str, ...] = tuple(LIBRARIES)
    repeats: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        counts = (self.lists, self.width, self.queries, self.draws, self.repeats, *self.ks)
        if min(counts) < 1 or self.radiographs <= max(self.ks):
            raise InvalidSetting("bench eval: counts and k are at least 1, and radiographs more than the largest k")
        if not max(self.ks) < self.positives <= self.gallery - max(self.ks):
            raise InvalidSetting(
                f"bench eval: {self.positives} positives of {self.gallery}; more than the largest k are needed of"
                " both kinds, so that every list can be all hits or all misses"
            )
        unknown = [name for name in self.libraries if name not in LIBRARIES]
        if unknown:
            raise InvalidSetting(f"bench eval: no library {unknown[0]!r}; choose among {', '.join(LIBRARIES)}")


def bench_eval(settings: EvalBenchSettings) -> dict[str, Any]:
    """Measure; JSON-able, with a table of lines."""
    before = os.getloadavg()[0]
    content: dict[str, Any] = {
        "settings": asdict(settings),
        "machine": describe_machine(),
        "threads": os.environ.get("OMP_NUM_THREADS", "as many as cores"),
        "libraries": _measure_libraries(settings),
        "loop": _measure_loop(settings),
        "bootstrap": _measure_bootstrap(settings),
        "load_average": {"before": before, "after": os.getloadavg()[0]},
        "notes": NOTES,
    }
    content["targets"] = targets(content)
    return {**content, "table": _table(content)}


def made_up_lists(settings: EvalBenchSettings) -> OneFindingLists:
    """Three in ten neighbours are hits, no row stands twice in a list, and none is the query."""
    generator, ranks = np.random.default_rng(settings.seed), max(settings.ks)
    order = generator.permutation(settings.gallery)
    hits, misses = order[: settings.positives], order[settings.positives :]
    has_it = np.zeros(settings.gallery, bool)
    has_it[hits] = True
    own = generator.integers(len(hits), size=settings.lists)
    steps = np.arange(1, ranks + 1)
    others = hits[(own[:, None] + steps) % len(hits)]
    wrong = misses[(generator.integers(len(misses), size=(settings.lists, 1)) + steps) % len(misses)]
    neighbours = np.where(generator.random(others.shape) < 0.3, others, wrong)
    return OneFindingLists(neighbours, has_it, hits[own])


def _measure_libraries(settings: EvalBenchSettings) -> dict[str, Any]:
    lists = made_up_lists(settings)
    return {name: _against(LIBRARIES[name], lists, settings) for name in settings.libraries}


def _against(library: Library, lists: OneFindingLists, settings: EvalBenchSettings) -> dict[str, Any]:
    """One library and ours in turn; only words where it is not installed."""
    try:
        require(library.module, extra="bench")
    except MissingDependency as error:
        return {"left_out": str(error)}
    library.of(lists.head(10), settings.ks)
    begun = perf_counter()
    built = library.convert(lists, settings.ks)
    convert_s = perf_counter() - begun
    works = {"ours": partial(ours, lists, settings.ks), "library": partial(library.call, built)}
    seconds = time_in_turn(works, repeats=settings.repeats)
    from_arrays = [turn + convert_s for turn in seconds["library"]]
    theirs = library.answers(library.call(built), settings.ks)
    return {
        "seconds": {"convert": convert_s, **{name: median(turns) for name, turns in seconds.items()}},
        "times_faster": {
            "call_alone": median_ratio(seconds["library"], seconds["ours"]),
            "from_arrays": median_ratio(from_arrays, seconds["ours"]),
        },
        "largest_difference": largest_difference(ours(lists, settings.ks), theirs),
    }


def _measure_loop(settings: EvalBenchSettings) -> dict[str, Any]:
    generator = np.random.default_rng(settings.seed)
    vectors = generator.standard_normal((settings.radiographs, settings.width), np.float32)
    labels = (generator.random((settings.radiographs, len(SHARES))) < SHARES).astype(np.int8)
    labels[generator.random(len(labels)) < WITHOUT_FINDING] = 0
    ways = {
        "arrays": evaluation_in_arrays,
        "loop": published_evaluation,
        "loop_searched_once": published_evaluation_searched_once,
    }
    works = {name: partial(way, vectors, labels, settings.ks) for name, way in ways.items()}
    seconds = time_in_turn(works, repeats=settings.repeats)
    in_arrays, in_a_loop = works["arrays"](), works["loop"]()
    return {
        "seconds": {name: median(turns) for name, turns in seconds.items()},
        "times_faster": {name: median_ratio(seconds[name], seconds["arrays"]) for name in list(ways)[1:]},
        "largest_difference": float(np.abs(in_arrays - in_a_loop).max()),
    }


def _measure_bootstrap(settings: EvalBenchSettings) -> dict[str, Any]:
    """With a patient for every query, which is the most work, and with nine queries a patient, as in MIMIC-CXR."""
    measured = {}
    for name, patients in {"a_patient_each": settings.queries, "nine_a_patient": max(1, settings.queries // 9)}.items():
        works = bootstrap_works(settings.queries, patients, settings.draws, settings.ks)
        seconds = time_in_turn(works, repeats=settings.repeats)
        measured[name] = {work: median(turns) for work, turns in seconds.items()}
    return {"seconds": measured}


def _table(content: Mapping[str, Any]) -> list[str]:
    machine, load = content["machine"], content["load_average"]
    busy = f"load {load['before']:.1f} before, {load['after']:.1f} after"
    lines = [f"{machine['cpu']}, {machine['cores']} cores, threads: {content['threads']}; {busy}", "", "targets"]
    found = content["targets"]
    width = max(map(len, found))
    for name, goal in found.items():
        measured = "not measured" if goal["measured"] is None else f"{goal['measured']:.4g}"
        lines.append(f"  {name:<{width}}  {measured:>12}  {goal['asked']:<16}  {'met' if goal['met'] else 'NOT MET'}")
    for name, library in content["libraries"].items():
        if "left_out" in library:
            lines.append(f"  {name}: left out; {library['left_out']}")
        else:
            lines.append(f"  {name}: {library['times_faster']['from_arrays']:,.0f} times with its conversion")
    once = content["loop"]["times_faster"]["loop_searched_once"]
    return [*lines, f"  the loop with one pass for all k: {once:.1f} times"]
