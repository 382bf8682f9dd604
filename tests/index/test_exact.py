"""Exact search against the definition: sort every cosine."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chextriev.errors import CountMismatch, InvalidSetting, InvalidValue
from chextriev.index import exact
from chextriev.index.exact import exact_search


def vectors(count, width=16, seed=0):
    return np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)


def by_definition(queries, gallery, k, groups=None):
    """Every cosine in float64, sorted by score, then row."""
    q, g = (
        x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True) for x in (queries, gallery)
    )
    cosine = (q @ g.T).astype(np.float32)
    scores, rows = np.full((len(q), k), -np.inf, np.float32), np.full((len(q), k), -1)
    for query, line in enumerate(cosine):
        allowed = [r for r in range(len(g)) if groups is None or groups[0][query] != groups[1][r]]
        best = sorted(allowed, key=lambda r: (-line[r], r))[:k]
        scores[query, : len(best)], rows[query, : len(best)] = line[best], best
    return scores, rows


def test_equals_the_definition():
    queries, gallery = vectors(20, seed=1), vectors(400, seed=2)
    scores, rows = exact_search(queries, gallery, 10)
    wanted_scores, wanted_rows = by_definition(queries, gallery, 10)
    np.testing.assert_array_equal(rows, wanted_rows)
    np.testing.assert_allclose(scores, wanted_scores, atol=3e-7)
    assert (scores.dtype, rows.dtype) == (np.float32, np.int64)


@given(
    seed=st.integers(0, 10_000),
    count=st.integers(1, 40),
    k=st.integers(1, 50),
    people=st.integers(1, 6),
    block=st.integers(1, 9),
)
@settings(max_examples=60, deadline=None)
def test_blocks_ties_groups_and_fillers(seed, count, k, people, block):
    rng = np.random.default_rng(seed)
    gallery = rng.integers(-1, 2, (count, 3)).astype(np.float32) + np.float32([0, 0, 3])  # few values: many ties
    queries = rng.integers(-1, 2, (7, 3)).astype(np.float32) + np.float32([0, 0, 3])
    groups = tuple(np.array([f"p{n}" for n in rng.integers(0, people, size)], object) for size in (7, count))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "BLOCK_BYTES", 4 * 3 * block)
        patch.setattr(exact, "QUERY_BLOCK", 3)
        scores, rows = exact_search(queries, gallery, k, groups=groups)
    whole = exact_search(queries, gallery, k, groups=groups)
    np.testing.assert_array_equal(rows, whole[1])
    np.testing.assert_array_equal(scores, whole[0])
    wanted_scores, wanted_rows = by_definition(queries, gallery, k, groups)
    np.testing.assert_allclose(scores, wanted_scores, atol=3e-7)
    np.testing.assert_array_equal(rows >= 0, wanted_rows >= 0)


def test_equal_vectors_tie_and_the_lower_row_leads():
    gallery = np.repeat(vectors(3, width=257), 40, axis=0)
    scores, rows = exact_search(gallery[[45]], gallery, 12)
    assert rows[0].tolist() == list(range(40, 52))
    assert np.all(scores == scores[0, 0])
    assert scores[0, 0] == pytest.approx(1.0, abs=1e-6)


def test_length_of_vectors_does_not_matter():
    queries, gallery = vectors(5), vectors(50, seed=3)
    scaled = exact_search(queries * np.float32(1e15), gallery * np.float32(1e-15), 5)
    np.testing.assert_array_equal(scaled[1], exact_search(queries, gallery, 5)[1])


def test_one_query_scores_as_it_does_in_a_batch():
    queries, gallery = vectors(64, width=100), vectors(3000, width=100, seed=5)
    scores, rows = exact_search(queries, gallery, 7)
    for query in range(0, 64, 9):
        alone = exact_search(queries[query : query + 1], gallery, 7)
        np.testing.assert_array_equal(alone[0][0], scores[query])
        np.testing.assert_array_equal(alone[1][0], rows[query])


def test_a_whole_group_excluded_leaves_fillers():
    gallery = vectors(4)
    groups = (np.array(["a"], object), np.array(["a", "a", "b", "a"], object))
    scores, rows = exact_search(gallery[:1], gallery, 3, groups=groups)
    assert rows.tolist() == [[2, -1, -1]]
    assert np.isneginf(scores[0, 1:]).all()


def test_memory_map(tmp_path):
    np.save(tmp_path / "gallery.npy", vectors(500))
    mapped = np.load(tmp_path / "gallery.npy", mmap_mode="r")
    np.testing.assert_array_equal(
        exact_search(vectors(3, seed=8), mapped, 4)[1], exact_search(vectors(3, seed=8), vectors(500), 4)[1]
    )


def test_nothing_to_search():
    assert exact_search(vectors(2), vectors(0), 3)[1].tolist() == [[-1] * 3] * 2
    assert exact_search(vectors(0), vectors(5), 3)[1].shape == (0, 3)


def test_refusals_name_the_row():
    spoilt, zero = vectors(6), vectors(6)
    spoilt[4, 2], zero[3] = np.nan, 0
    with pytest.raises(InvalidValue, match="gallery vector 4 has a value that is not finite"):
        exact_search(vectors(2), spoilt, 3)
    with pytest.raises(InvalidValue, match="query 3 is zero"):
        exact_search(zero, vectors(6), 3)
    with pytest.raises(CountMismatch, match="same width"):
        exact_search(vectors(2, width=8), vectors(6), 3)
    with pytest.raises(CountMismatch, match="groups of 1"):
        exact_search(vectors(2), vectors(6), 3, groups=(np.array(["a"]), np.array(["b"] * 6)))
    with pytest.raises(InvalidSetting, match="at least 1"):
        exact_search(vectors(2), vectors(6), 0)
