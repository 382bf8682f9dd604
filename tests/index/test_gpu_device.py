"""Faiss on an NVIDIA GPU finds what it finds on a CPU."""

from concurrent.futures import ThreadPoolExecutor

import faiss
import numpy as np
import pytest

from chextriev.index import gpu_devices
from chextriev.index.exact import exact_search, unit_rows
from chextriev.index.gpu import GpuVectorIndex, move_to_gpu
from chextriev.index.gpu_build import finding_lists, train_lists
from chextriev.index.gpu_devices import open_gpus
from chextriev.index.vector_index import Scan
from tests.index.on_gpu import (
    LISTS,
    QUERIES,
    RANK,
    REFINED_LISTS,
    VECTORS,
    WHOLE,
    WIDTH,
    assert_same,
    build,
)


@pytest.fixture(params=["cuda", "cuda:0,1"])
def device(request):
    if "," in request.param and len(gpu_devices.gpu_devices()) < 2:
        pytest.skip("Faiss finds one GPU")
    return request.param


@pytest.mark.gpu
@pytest.mark.skipif(not gpu_devices.gpu_devices(), reason="Faiss finds no GPU")
@pytest.mark.parametrize("factory", [*WHOLE, *LISTS, *REFINED_LISTS])
def test_a_gpu_finds_what_the_cpu_finds(factory, device):
    index = build(factory)
    there, words = move_to_gpu(index, device)
    assert isinstance(there, GpuVectorIndex), words
    scans = [Scan(rank=RANK), Scan(rank=RANK, allowed=RANK < 4_000)]
    calls = [(QUERIES[start : start + 5], 10, scans[start % 2]) for start in range(0, 55, 5)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda call: there.search(*call), calls))
    there.close()
    for (queries, count, scan), found in zip(calls, answers, strict=True):
        wanted = index.search(queries, count, Scan(**vars(scan) | {"exact": factory in WHOLE}))
        if factory == "Flat":
            assert_same(found, wanted)
        np.testing.assert_allclose(found[0], wanted[0], atol=1e-2 if "PQ" in factory else 1e-3)
        assert np.mean([len(set(a) & set(b)) / count for a, b in zip(found[1], wanted[1], strict=True)]) >= (
            0.99 if factory in WHOLE else 0.9
        )


@pytest.mark.gpu
@pytest.mark.skipif(not gpu_devices.gpu_devices(), reason="Faiss finds no GPU")
@pytest.mark.parametrize("factory", ["IVF32,PQ8x4fs,Refine(SQfp16)", "IVF32,SQ8"])
def test_a_gpu_builds_an_index_as_good_as_the_cpu(factory, device):
    gpus, _ = open_gpus(device)
    unit = unit_rows(VECTORS, "vector")
    _, wanted = exact_search(QUERIES, VECTORS, 10)
    recall = []
    for helper in (gpus, None):
        index = faiss.index_factory(WIDTH, factory, faiss.METRIC_INNER_PRODUCT)
        train_lists(index, unit[::2], helper)
        with finding_lists(index, helper):
            index.add(unit)
        again = faiss.deserialize_index(faiss.serialize_index(index))
        _, found = again.search(QUERIES, 10, params=None)
        recall.append(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, wanted, strict=True)]))
    assert recall[0] >= recall[1] - 0.05
