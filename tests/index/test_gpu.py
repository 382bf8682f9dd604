"""An index on GPUs answers as on the CPU. Where no GPU is, the same code runs with copies that stay on the CPU."""

from concurrent.futures import ThreadPoolExecutor

import faiss
import numpy as np
import pytest

from chextriev.errors import InvalidSetting, InvalidValue, ServerUnavailable
from chextriev.index import gpu, gpu_devices
from chextriev.index.gpu import gpu_forms, move_to_gpu
from chextriev.index.gpu_devices import explain_device, in_parts, open_gpus
from chextriev.index.spec import IndexSpec
from chextriev.index.vector_index import ANY, Scan, train_index
from tests.index.on_gpu import (
    LISTS,
    ON_THE_CPU,
    QUERIES,
    RANK,
    REFINED_LISTS,
    VECTORS,
    WHOLE,
    WIDTH,
    Beside,
    Full,
    N,
    assert_same,
    beside,
    build,
)

no_gpu = pytest.mark.skipif(hasattr(faiss, "StandardGpuResources"), reason="the Faiss installed is built for GPUs")


@no_gpu
@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:0,1"])
def test_without_a_gpu_the_cpu_is_taken_and_it_is_said(device):
    index = build("Flat")
    there, words = move_to_gpu(index, device)
    assert there is index
    assert words == (
        "on the CPU: the Faiss that is installed knows no GPU; run: pip uninstall faiss-cpu, then pip install"
        " 'chextriev[gpu-index]'"
    )
    assert open_gpus(device) == (None, words)
    assert gpu_devices.gpu_devices() == []


def test_devices_are_said_in_words(monkeypatch):
    assert explain_device("cpu") == ("cpu", "on the CPU, as asked")
    for wrong in ("gpu", "cuda:", "cuda:0,", "cuda:-1", "cuda:a", "CUDA", "cpu:0", ""):
        with pytest.raises(InvalidSetting, match="choose cpu, cuda, or GPUs by number"):
            explain_device(wrong)
    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0)
    assert explain_device("cuda")[0] == "cpu"
    assert "Faiss finds no GPU; see that nvidia-smi lists one" in explain_device("cuda:0")[1]
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 2)
    assert gpu_devices.gpu_devices() == [0, 1]
    assert explain_device("cuda") == ("cuda:0", "on GPU 0")
    assert explain_device("cuda:1") == ("cuda:1", "on GPU 1")
    assert explain_device("cuda:1,0") == ("cuda:1,0", "on GPUs 1, 0, each with a part of it")
    for absent in ("cuda:2", "cuda:0,2", "cuda:0,0"):
        with pytest.raises(InvalidSetting, match=rf"device '{absent}'; choose from cuda:0, cuda:1, each once"):
            explain_device(absent)


# Which part goes there.


@pytest.mark.parametrize("factory", WHOLE)
def test_stored_vectors_come_first(factory):
    index = build(factory).faiss_index
    first = gpu_forms(index)[0]
    base = faiss.downcast_index(first.base_index)
    assert isinstance(base, faiss.IndexFlat if factory.endswith("Flat") else faiss.IndexScalarQuantizer)
    assert base.ntotal == first.ntotal == N


@pytest.mark.parametrize("factory", [*LISTS, *REFINED_LISTS])
def test_lists_that_the_gpu_knows_come_next(factory):
    index = build(factory).faiss_index
    forms = gpu_forms(index)
    assert len(forms) == (2 if factory in REFINED_LISTS else 1)
    assert faiss.try_extract_index_ivf(forms[-1]).nlist == 32


@pytest.mark.parametrize("factory", ON_THE_CPU)
def test_the_rest_stays_and_it_is_said(factory, monkeypatch):
    monkeypatch.setattr(gpu, "open_gpus", lambda device: (Beside(), "on GPU 0"))
    index = build(factory)
    there, words = move_to_gpu(index)
    assert there is index
    assert words == (
        f"on the CPU: {factory!r} does not go to the GPU, Faiss has nothing of its type there; build it as Flat, or"
        " with inverted lists, 8-bit codes and a Refine stage, as in 'IVF1024,PQ64x8np,Refine(SQfp16)'"
    )


def test_what_does_not_fit_makes_way_for_what_does(monkeypatch):
    index = build("IVF32,PQ8x8np,Refine(SQfp16)")
    monkeypatch.setattr(gpu, "open_gpus", lambda device: (Full(faiss.IndexScalarQuantizer), "on GPU 0"))
    there, words = move_to_gpu(index)
    assert words == there.words == "on GPU 0: the lists of the index"
    assert_same(there.search(QUERIES, 16), index.search(QUERIES, 16))
    there.close()
    monkeypatch.setattr(gpu, "open_gpus", lambda device: (Full(faiss.Index), "on GPU 0"))
    there, words = move_to_gpu(index)
    assert there is index
    assert "on the CPU: 'IVF32,PQ8x8np,Refine(SQfp16)' does not go to the GPU, Faiss says" in words
    assert words.count("out of memory") == 2


def test_half_precision_vectors_are_searched_in_parts_as_in_one():
    index = build("IVF32,PQ8x4fs,Refine(SQfp16)").faiss_index
    stored = faiss.downcast_index(index.refine_index)
    parts = in_parts(stored, [faiss.clone_index] * 3)
    assert (parts.count(), parts.ntotal) == (3, N)
    assert_same(parts.search(QUERIES, 20), stored.search(QUERIES, 20))


# What is answered.


@pytest.mark.parametrize("scan", [ANY, Scan(rank=RANK), Scan(exact=True), Scan(allowed=RANK < 4_000, rank=RANK)])
def test_an_exact_index_answers_the_same(scan):
    index = build("Flat")
    there = beside(index)
    assert there.words == "on the CPU: every stored vector compared"
    assert there.on_gpu.can(16, scan)
    assert_same(there.search(QUERIES, 10, scan), index.search(QUERIES, 10, scan))
    there.close()


def test_ties_past_what_is_fetched_are_told_apart():
    index = train_index(np.repeat(VECTORS[:6], 100, axis=0), IndexSpec("Flat"))
    rank = np.arange(600)[::-1].copy()
    there = beside(index)
    for scan in (ANY, Scan(rank=rank)):
        found = there.search(VECTORS[:6], 7, scan)
        assert_same(found, index.search(VECTORS[:6], 7, scan))
    assert found[1][2].tolist() == list(range(299, 292, -1))
    there.close()


@pytest.mark.parametrize("factory", WHOLE[1:])
def test_stored_vectors_are_all_compared(factory):
    index = build(factory)
    there = beside(index)
    for scan in (ANY, Scan(rank=RANK), Scan(allowed=RANK < 4_000)):
        assert there.on_gpu.can(16, scan)
        assert_same(there.search(QUERIES, 10, scan), index.search(QUERIES, 10, Scan(**vars(scan) | {"exact": True})))
    if "IVF" in factory:
        assert_same(there.search(QUERIES, 10, Scan(nprobe=1)), there.search(QUERIES, 10))
    there.close()


@pytest.mark.parametrize(("factory", "form"), [*((each, 0) for each in LISTS), *((each, 1) for each in REFINED_LISTS)])
def test_lists_answer_as_on_the_cpu(factory, form):
    index = build(factory)
    there = beside(index, form)
    assert there.words == "on the CPU: the lists of the index"
    for scan in (ANY, Scan(nprobe=2), Scan(nprobe=32, rerank=3, rank=RANK)):
        assert there.on_gpu.can(16, scan)
        assert_same(there.search(QUERIES, 16, scan), index.search(QUERIES, 16, scan))
    there.close()


@pytest.mark.parametrize(
    ("factory", "form", "count", "scan"),
    [
        ("Flat", 0, 3_000, ANY),
        ("Flat", 0, 10, Scan(allowed=RANK < 30)),
        ("IVF32,PQ8x4fs,Refine(SQfp16)", 0, 10, Scan(exact=True)),
        ("IVF32,PQ8x8np,Refine(SQfp16)", 1, 10, Scan(exact=True)),
        ("IVF32,PQ8x8np,Refine(SQfp16)", 1, 10, Scan(rerank=300)),
        ("IVF32,Flat", 0, 10, Scan(allowed=RANK < 5_000)),
        ("IVF32,Flat", 0, 10, Scan(nprobe=5_000)),
    ],
)
def test_what_a_gpu_cannot_do_the_cpu_does(factory, form, count, scan):
    index = build(factory)
    there = beside(index, form)
    assert not there.on_gpu.can(count, scan)
    assert_same(there.search(QUERIES[:8], count, scan), index.search(QUERIES[:8], count, scan))
    there.close()


def test_chosen_rows_that_are_thin_where_the_query_is_come_from_the_cpu():
    index = build("Flat")
    near = index.search(QUERIES[:1], 4_000)[1][0]
    scan = Scan(allowed=~np.isin(np.arange(N), near))
    there = beside(index)
    assert there.on_gpu.can(16, scan)
    assert_same(there.search(QUERIES[:8], 10, scan), index.search(QUERIES[:8], 10, scan))
    there.close()


def test_many_threads_share_a_gpu():
    index = build("IVF32,PQ8x4fs,Refine(SQfp16)")
    there, scans = beside(index), [ANY, Scan(rank=RANK), Scan(exact=True)]
    calls = [(QUERIES[start : start + 3], 10, scans[start % 3]) for start in range(57)]
    alone = [there.search(*call) for call in calls]
    with ThreadPoolExecutor(16) as pool:
        for found, wanted in zip(pool.map(lambda call: there.search(*call), calls), alone, strict=True):
            assert_same(found, wanted)
    there.close()
    with pytest.raises(ServerUnavailable, match="closed"):
        there.search(QUERIES, 10)


def test_wrong_searches_are_refused_as_on_the_cpu():
    flat, lists = beside(build("Flat")), beside(build("IVF32,PQ8x4fs,Refine(SQfp16)"))
    with pytest.raises(InvalidValue, match="query 0 is zero"):
        flat.search(np.zeros((2, WIDTH), np.float32), 10)
    with pytest.raises(InvalidSetting, match="nprobe = 4"):
        flat.search(QUERIES, 10, Scan(nprobe=4))
    with pytest.raises(InvalidSetting, match="nprobe = 0"):
        lists.search(QUERIES, 10, Scan(nprobe=0))
    assert flat.search(QUERIES[:0], 10)[0].shape == (0, 10)
    assert (len(lists), lists.width, lists.spec.nprobe) == (N, WIDTH, 4)
    np.testing.assert_array_equal(flat.reconstruct(3, 7), flat.cpu.reconstruct(3, 7))
    flat.close()
    lists.close()
