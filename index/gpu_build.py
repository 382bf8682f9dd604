"""Building an index with the help of GPUs; it stays a CPU index, so every type can be built so, and saved as it is."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from chextriev.index.exact import Vectors
from chextriev.index.gpu_devices import Copier
from chextriev.optional import require

faiss = require("faiss", extra="index")


def train_lists(index: Any, sample: Vectors, gpus: Copier | None) -> None:
    """Train a CPU Faiss index on a sample [n, D] of unit vectors, the k-means of its lists on GPUs.

    gpus: of `gpu_devices.open_gpus`; None trains on the CPU. So does an index without lists.
    """
    lists = faiss.try_extract_index_ivf(index)
    if lists is None or gpus is None:
        index.train(sample)
        return
    helper = gpus.copy(faiss.IndexFlatIP(lists.d), shard=False)
    lists.clustering_index = helper
    try:
        index.train(sample)
    finally:
        lists.clustering_index = None


@contextmanager
def finding_lists(index: Any, gpus: Copier | None) -> Iterator[None]:
    """While this lasts, a trained CPU index finds the list of each added vector on GPUs, the costly part of adding.

    Lists that code what is left of a vector beside its centre (SQ, 8-bit PQ) are filled on the CPU as ever: Faiss asks
    for their centres one at a time and from many threads, which a GPU index does not bear.
    """
    lists = faiss.try_extract_index_ivf(index)
    if lists is None or gpus is None or lists.by_residual:
        yield
        return
    on_cpu = lists.quantizer
    on_gpu = gpus.copy(faiss.downcast_index(on_cpu), shard=False)
    lists.quantizer = on_gpu
    try:
        yield
    finally:
        lists.quantizer = on_cpu
