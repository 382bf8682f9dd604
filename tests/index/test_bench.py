"""The bench measures what it says, on a size that takes a second."""

import json

import numpy as np
import pytest

from chextriev.errors import InvalidSetting
from chextriev.index.bench import IndexBenchSettings, bench_index, clustered_vectors
from chextriev.index.spec import IndexSpec


def test_the_result_is_json_and_complete():
    settings = IndexBenchSettings(
        n=3_000, width=32, queries=100, centres=50, repeats=2, spec=IndexSpec("IVF16,PQ8x4fs,Refine(SQfp16)")
    )
    result = json.loads(json.dumps(bench_index(settings)))
    assert result["ann_recall@10"] > 0.9
    assert result["spec"]["factory"] == settings.spec.factory
    for name in (
        "build_s",
        "exact_queries_per_s",
        "approximate_queries_per_s",
        "throughput_ratio",
        "exact_single_p50_ms",
        "approximate_single_p50_ms",
    ):
        assert result[name] > 0


def test_the_vectors_are_clustered_unit_and_seeded():
    settings = IndexBenchSettings(n=500, width=32, queries=20, centres=4)
    vectors = clustered_vectors(settings)
    assert (vectors.shape, vectors.dtype) == ((520, 32), np.float32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    cosine = vectors @ vectors.T
    assert 0.1 < (cosine > 0.5).mean() < 0.5  # about a quarter share a centre
    np.testing.assert_array_equal(vectors, clustered_vectors(settings))


def test_settings_are_checked():
    with pytest.raises(InvalidSetting, match="n = 0"):
        IndexBenchSettings(n=0)
    with pytest.raises(InvalidSetting, match="spread"):
        IndexBenchSettings(spread=float("nan"))
