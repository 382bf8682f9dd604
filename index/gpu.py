"""The same index on NVIDIA GPUs: what Faiss has there is searched there, all else by the index on the CPU beside it.

Which part goes to the GPU depends on the type, see `gpu_forms`. Several GPUs each hold a part of the vectors or lists
and search it for every query (Faiss's shards, not replicas): memory adds up, and only shards take a number of lists
per search. cuVS walks the lists where Faiss was built with it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from chextriev.index.dispatcher import Dispatcher, count_class
from chextriev.index.exact import PROPOSAL_MARGIN, Rows, Scores, Vectors, unit_rows
from chextriev.index.faiss_files import reason
from chextriev.index.gpu_devices import CUDA, Copier, open_gpus
from chextriev.index.spec import IndexSpec
from chextriev.index.vector_index import ANY, TIE_SLACK, Scan, VectorIndex, best_first, check_queries, faiss

DEEPEST = 2_048  # neighbours, and lists, of one search on a GPU: the limit of Faiss's kernels
SPARE = 1.5  # fetched past what a share of allowed rows needs on average


def gpu_forms(index: Any) -> list[Any]:
    """The ways in which a CPU Faiss index can stand on a GPU, the best first, as CPU indexes.

    "Flat" and "...,Refine(SQfp16)" or "...,RFlat" come as the stored vectors themselves: a GPU compares with every one
    of millions faster than it walks lists, and 4-bit codes, graphs and Refine have no twin there. What it finds is
    scored again on the CPU, pair by pair. If they do not fit, and for "IVF...,Flat", "IVF...,SQ8" and "IVF...,PQ32x8np"
    (8 bits; also behind OPQ), the lists come, followed by the Refine stage on the CPU if the index has one.
    None for all others: HNSW, SQ and PQ without lists, and lists of 4-bit codes without a Refine stage.
    """
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexFlat):
        return [faiss.IndexRefine(index, index)]
    if isinstance(index, faiss.IndexRefine):
        stored = faiss.downcast_index(index.refine_index)
        forms = [faiss.IndexRefine(stored, stored)] if _holds_vectors(stored) else []
        return [*forms, index] if _has_twin(index.base_index) else forms
    return [index] if _has_twin(index) else []


def _holds_vectors(index: Any) -> bool:
    halves = isinstance(index, faiss.IndexScalarQuantizer) and index.sq.qtype == faiss.ScalarQuantizer.QT_fp16
    return halves or isinstance(index, faiss.IndexFlat)


def _has_twin(index: Any) -> bool:
    """Whether these lists exist on the GPU too."""
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexPreTransform):
        return _has_twin(index.index)
    lists = isinstance(index, (faiss.IndexIVFFlat, faiss.IndexIVFScalarQuantizer, faiss.IndexIVFPQ))
    if not lists or not isinstance(faiss.downcast_index(index.quantizer), faiss.IndexFlat):
        return False
    return not isinstance(index, faiss.IndexIVFPQ) or index.pq.nbits == 8


@dataclass(frozen=True, eq=False)
class _OnGpu:
    """A form and its copy on the GPU; for one thread at a time."""

    cpu: VectorIndex
    form: Any
    copy: Any

    @property
    def width(self) -> int:
        return self.cpu.width

    @property
    def compares_all(self) -> bool:
        """Whether the stored vectors themselves are there."""
        return isinstance(self.form, faiss.IndexRefine) and _holds_vectors(faiss.downcast_index(self.form.base_index))

    def fetch(self, count: int, scan: Scan) -> int:
        """How many to ask the GPU for, so that `count` are left when ties are told apart and rows not allowed go."""
        wanted = float(count + TIE_SLACK)
        if scan.allowed is not None:
            wanted *= SPARE * len(self.cpu) / max(1, int(np.count_nonzero(scan.allowed)))
        return min(int(np.ceil(wanted)), len(self.cpu))

    def depth(self, count: int, scan: Scan) -> float:
        """Candidates per fetched row that are scored again."""
        rerank = (scan.rerank or self.cpu.spec.rerank) * count / max(1, self.fetch(count, scan))
        if self.compares_all:  # makes up for the rounding of the query to half precision, no more
            rerank = 1.0 if self.cpu.spec.is_exact else min(rerank, DEEPEST / max(1, self.fetch(count, scan)))
        return max(1.0, rerank) if isinstance(self.form, faiss.IndexRefine) else 1.0

    def can(self, count: int, scan: Scan) -> bool:
        """Whether the GPU can answer; wrong settings go to the CPU as well, which refuses them in words."""
        has_lists = faiss.try_extract_index_ivf(self.cpu.faiss_index) is not None
        if scan.nprobe is not None and (scan.nprobe < 1 or not has_lists):
            return False
        if not 0 < self.fetch(count, scan) * self.depth(count, scan) <= DEEPEST:
            return False
        if self.compares_all:
            return self.cpu.spec.is_exact or not scan.exact
        return (scan.nprobe or self.cpu.spec.nprobe) <= DEEPEST and scan.allowed is None and not scan.exact

    def search(self, queries: npt.NDArray[Any], count: int, scan: Scan = ANY) -> tuple[Scores, Rows]:
        """See `GpuVectorIndex.search`."""
        unit, count = unit_rows(queries, "query"), min(count, len(self.cpu))
        if not len(unit):
            return self.cpu.search(queries, count, scan)
        fetch = self.fetch(count, scan)
        scores, rows = self.copy.search(unit, fetch, params=self._parameters(count, scan))
        lowest = np.where(rows < 0, np.float32(np.inf), scores).min(axis=1)
        if scan.allowed is not None:
            rows = np.where((rows >= 0) & scan.allowed[rows], rows, -1)
        scores, rows = best_first(scores, rows, count, scan.rank)
        if self.compares_all and fetch < len(self.cpu):
            doubtful = scores[:, -1] <= lowest + PROPOSAL_MARGIN  # tied past what was fetched, or too few allowed
            if doubtful.any():
                scores[doubtful], rows[doubtful] = self.cpu.search(queries[doubtful], count, scan)
        return scores, rows

    def _parameters(self, count: int, scan: Scan) -> Any:
        inner = None
        base = self.form
        if isinstance(self.form, faiss.IndexRefine):
            base = faiss.downcast_index(self.form.base_index)
        if not self.compares_all:
            inner = faiss.SearchParametersIVF(nprobe=scan.nprobe or self.cpu.spec.nprobe)
            if isinstance(base, faiss.IndexPreTransform):
                inner = faiss.SearchParametersPreTransform(index_params=inner)
        if isinstance(self.form, faiss.IndexRefine):
            return faiss.IndexRefineSearchParameters(k_factor=self.depth(count, scan), base_index_params=inner)
        return inner


@dataclass(frozen=True, eq=False)
class GpuVectorIndex:
    """A `VectorIndex` on GPUs, behind a dispatcher, so safe to search from several threads; close it after use.

    cpu: the index that it was made of, which stays open. words: where it is searched and in which form.
    """

    cpu: VectorIndex
    words: str
    on_gpu: _OnGpu
    dispatcher: Dispatcher

    @classmethod
    def place(cls, index: VectorIndex, form: Any, gpus: Copier, words: str) -> "GpuVectorIndex":
        """One of the `gpu_forms` of an index, copied by `gpus`. Raises RuntimeError if Faiss cannot."""
        if isinstance(form, faiss.IndexRefine):
            stored = faiss.downcast_index(form.refine_index)
            copy = faiss.IndexRefine(gpus.copy(faiss.downcast_index(form.base_index)), stored)
        else:
            copy = gpus.copy(form)
        on_gpu = _OnGpu(index, form, copy)
        what = "every stored vector compared" if on_gpu.compares_all else "the lists of the index"
        return cls(index, f"{words}: {what}", on_gpu, Dispatcher(on_gpu))

    def __len__(self) -> int:
        return len(self.cpu)

    @property
    def spec(self) -> IndexSpec:
        """How the index was made."""
        return self.cpu.spec

    @property
    def width(self) -> int:
        """D, the width of its vectors."""
        return self.cpu.width

    def search(self, queries: npt.NDArray[Any], count: int, scan: Scan = ANY) -> tuple[Scores, Rows]:
        """As `VectorIndex.search`, from the GPU where it can, else from the CPU.

        An exact index answers the same, score for score. One whose stored vectors are on the GPU compares with all of
        them, so it finds at least what the CPU finds; nprobe and rerank then bound nothing. The CPU answers: an exact
        search of an approximate index, chosen rows of an index of lists or so few of them that more than 2,048 would
        have to be fetched, more than 2,048 candidates or lists, and ties that go on past those fetched. Raises
        Overloaded if too many wait for the GPU.
        """
        check_queries(queries, self.width, count)
        if not self.on_gpu.can(min(count_class(count), len(self)), scan):
            return self.cpu.search(queries, count, scan)
        return self.dispatcher.search(queries, count, scan)

    def reconstruct(self, start: int, stop: int) -> Vectors:
        """As `VectorIndex.reconstruct`."""
        return self.cpu.reconstruct(start, stop)

    def close(self) -> None:
        """Answer what waits, and take no more."""
        self.dispatcher.close()


def move_to_gpu(index: VectorIndex, device: str = CUDA) -> tuple[VectorIndex | GpuVectorIndex, str]:
    """The index on a device (see `explain_device`), and where it is searched and why, for a person.

    The index itself comes back where there is no GPU, or none of its forms fits there.
    """
    gpus, words = open_gpus(device)
    if gpus is None:
        return index, words
    refusals = []
    for form in gpu_forms(index.faiss_index):
        try:
            placed = GpuVectorIndex.place(index, form, gpus, words)
        except RuntimeError as error:  # not enough memory, or not for this type
            refusals.append(reason(error))
        else:
            return placed, placed.words
    why = f"Faiss says {'; '.join(refusals)}" if refusals else "Faiss has nothing of its type there"
    return index, (
        f"on the CPU: {index.spec.factory!r} does not go to the GPU, {why}; build it as Flat, or with inverted lists,"
        " 8-bit codes and a Refine stage, as in 'IVF1024,PQ64x8np,Refine(SQfp16)'"
    )
