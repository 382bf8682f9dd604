"""The bench of GPUs measures what it says, and refuses where there is none."""

import faiss
import numpy as np
import pytest

from chextriev.errors import InvalidSetting, MissingDependency
from chextriev.index.bench.gpu import GpuBenchSettings, bench_gpu, measure
from chextriev.index.gpu_devices import gpu_devices
from chextriev.index.spec import IndexSpec

SMALL = GpuBenchSettings(
    n=3_000, width=32, queries=40, singles=10, threads=4, repeats=2, lists=IndexSpec("IVF32,PQ8x4fs,Refine(SQfp16)")
)


class Beside:
    """Copies that stay on the CPU."""

    def copy(self, index, *, shard=True):
        return faiss.clone_index(index)


@pytest.mark.skipif(bool(gpu_devices()), reason="a GPU is there")
def test_without_a_gpu_nothing_is_measured_and_it_is_said():
    with pytest.raises(MissingDependency, match="compares a GPU with the CPU, but the index would be on the CPU: "):
        bench_gpu(SMALL)


def test_both_are_measured():
    found = measure(SMALL, Beside(), "on the CPU")
    assert set(found) == {"exact", "lists"}
    for name, part in found.items():
        assert part["form"] == "on the CPU: every stored vector compared"
        assert part["ann_recall@10"]["gpu"] >= part["ann_recall@10"]["cpu"] >= (1.0 if name == "exact" else 0.8)
        ways = [part[way] for way in ("batch", "one_by_one", "threads")]
        assert all(set(way["queries_per_s"]) == {"cpu", "gpu"} and way["times_faster"] > 0 for way in ways)
        np.testing.assert_allclose(ways[1]["ms"]["gpu"], 1000 / ways[1]["queries_per_s"]["gpu"])
        building = part["building"]
        assert building["cpu"]["add_s"] > 0
        assert building["times_faster"] > 0


def test_settings_are_checked():
    for wrong in ({"k": 0}, {"threads": 0}, {"repeats": 0}, {"singles": 0}):
        with pytest.raises(InvalidSetting, match=f"{next(iter(wrong))} = 0"):
            GpuBenchSettings(**wrong)
    with pytest.raises(InvalidSetting, match="n = 0"):
        _ = GpuBenchSettings(n=0).mixture


@pytest.mark.gpu
@pytest.mark.skipif(not gpu_devices(), reason="Faiss finds no GPU")
def test_a_gpu_is_measured():
    content = bench_gpu(SMALL)
    assert content["device"] == "on GPU 0"
    assert content["lists"]["ann_recall@10"]["gpu"] >= 0.95
