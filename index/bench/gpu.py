"""An index on GPUs against the same index on the CPU: building and searching, in one run."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median
from typing import Any

import numpy as np

from chextriev.errors import InvalidSetting, MissingDependency
from chextriev.index.bench.vectors import Mixture, clustered_vectors
from chextriev.index.exact import Rows, Vectors
from chextriev.index.gpu import GpuVectorIndex, gpu_forms
from chextriev.index.gpu_build import finding_lists, train_lists
from chextriev.index.gpu_devices import CUDA, Copier, has_cuvs, open_gpus
from chextriev.index.spec import EXACT, IndexSpec, choose_spec
from chextriev.index.tune import overlap
from chextriev.index.vector_index import ADD_BLOCK, VectorIndex, faiss
from chextriev.machine import describe_machine, median_ratio, time_in_turn

SAMPLE = 65_536
"""Vectors that train the lists."""

Each = Callable[..., Iterable[object]]


@dataclass(frozen=True)
class GpuBenchSettings:
    """A mixture of n vectors (see `Mixture`) and its queries.

    device: as for `move_to_gpu`. singles: queries asked one at a time. threads: callers at once. lists: the spec beside
    exact search; chosen by size if None.
    """

    device: str = CUDA
    n: int = 237_000
    width: int = 1_024
    queries: int = 10_000
    k: int = 10
    singles: int = 400
    threads: int = 16
    repeats: int = 5
    lists: IndexSpec | None = None

    def __post_init__(self) -> None:
        for name in ("k", "singles", "threads", "repeats"):
            if getattr(self, name) < 1:
                raise InvalidSetting(f"bench index-gpu: {name} = {getattr(self, name)}; give 1 or more")

    @property
    def mixture(self) -> Mixture:
        """What is searched."""
        return Mixture(self.n, self.width, self.queries)


def bench_gpu(settings: GpuBenchSettings) -> dict[str, Any]:
    """Measure on the GPUs of the settings; JSON-able. Raises MissingDependency where there is none.

    For exact search and for lists: seconds of training and of adding; queries/s of one batch, of single queries one by
    one (and their ms) and of many threads that ask one each; `ann_recall@k`. Each on "cpu" and "gpu", with how many
    times faster the GPU is (the median over neighbouring turns).
    """
    gpus, words = open_gpus(settings.device)
    if gpus is None:
        raise MissingDependency(f"bench index-gpu compares a GPU with the CPU, but the index would be {words}")
    return {
        "settings": asdict(settings),
        "machine": describe_machine(),
        "device": words,
        "faiss_version": faiss.__version__,
        "cuvs": has_cuvs(),
        "cpu_threads": faiss.omp_get_max_threads(),
        **measure(settings, gpus, words),
    }


def measure(settings: GpuBenchSettings, gpus: Copier, words: str) -> dict[str, Any]:
    """The measured part of `bench_gpu`, on what copies indexes."""
    made = clustered_vectors(settings.mixture)
    vectors, queries = made[: settings.n], made[settings.n :]
    specs = {"exact": IndexSpec(EXACT), "lists": settings.lists or choose_spec(settings.n, settings.width)}
    wanted: Rows | None = None
    measured = {}
    for name, spec in specs.items():
        index, building = _build_both(vectors, spec, gpus)
        there = GpuVectorIndex.place(index, gpu_forms(index.faiss_index)[0], gpus, words)
        found = {"cpu": index.search(queries, settings.k)[1], "gpu": there.search(queries, settings.k)[1]}
        wanted = found["cpu"] if wanted is None else wanted
        measured[name] = {
            "spec": asdict(spec),
            "form": there.words,
            "building": building,
            f"ann_recall@{settings.k}": {where: round(overlap(rows, wanted), 4) for where, rows in found.items()},
            **_searching(index, there, queries, settings),
        }
        there.close()
    return measured


def _build_both(vectors: Vectors, spec: IndexSpec, gpus: Copier) -> tuple[VectorIndex, dict[str, Any]]:
    """The index as built with the GPUs, and what it took with them and without."""
    seconds, index = {}, None
    for where, helper in (("cpu", None), ("gpu", gpus)):
        index = faiss.index_factory(vectors.shape[1], spec.factory, faiss.METRIC_INNER_PRODUCT)
        sample = vectors[np.sort(np.random.default_rng(0).permutation(len(vectors))[:SAMPLE])]
        train_s = _seconds(partial(train_lists, index, sample, helper))
        with finding_lists(index, helper):
            add_s = _seconds(partial(_add, index, vectors))
        seconds[where] = {"train_s": train_s, "add_s": add_s}
    totals = {where: sum(parts.values()) for where, parts in seconds.items()}
    return VectorIndex(spec, index), {**seconds, "times_faster": totals["cpu"] / totals["gpu"]}


def _add(index: Any, vectors: Vectors) -> None:
    for start in range(0, len(vectors), ADD_BLOCK):
        index.add(vectors[start : start + ADD_BLOCK])


def _searching(
    index: VectorIndex, there: GpuVectorIndex, queries: Vectors, settings: GpuBenchSettings
) -> dict[str, Any]:
    singles = [queries[row : row + 1] for row in range(min(settings.singles, len(queries)))]

    def ways(pool: ThreadPoolExecutor) -> dict[str, tuple[list[Vectors], Each]]:
        return {"batch": ([queries], map), "one_by_one": (singles, map), "threads": (singles, pool.map)}

    content: dict[str, Any] = {}
    with ThreadPoolExecutor(settings.threads) as pool:
        for way, (asked, each) in ways(pool).items():
            works = {
                where: partial(_ask, each, partial(at.search, count=settings.k), asked)
                for where, at in (("cpu", index), ("gpu", there))
            }
            seconds = time_in_turn(works, repeats=settings.repeats)
            number = sum(map(len, asked))
            content[way] = {
                "queries_per_s": {where: number / median(turns) for where, turns in seconds.items()},
                "times_faster": median_ratio(seconds["cpu"], seconds["gpu"]),
            }
    content["one_by_one"]["ms"] = {where: 1000 / rate for where, rate in content["one_by_one"]["queries_per_s"].items()}
    return content


def _ask(each: Each, search: Callable[..., object], asked: Sequence[Vectors]) -> None:
    deque(each(search, asked), maxlen=0)


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
