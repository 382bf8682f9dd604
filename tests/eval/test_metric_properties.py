"""What must hold of every metric whatever the lists; what holds of single lists is in `test_metrics`."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from chextriev.eval import metrics
from chextriev.eval.metrics import METRICS, RankedHits, class_means, macro_mean, score_queries

FALLS_WHEN_A_HIT_ENTERS = "ap_over_hits"
"""The mean over the hits found: a further hit at a poor rank lowers it."""

some = settings(max_examples=60, deadline=None)


@st.composite
def ranked_lists(draw, least=1, most=12, longest=9):
    """Lists of queries, with at least as many hits among the candidates as were found."""
    ranks, queries = draw(st.integers(1, longest)), draw(st.integers(least, most))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    hits = generator.random((queries, ranks)) < draw(st.sampled_from([0.1, 0.5, 0.9]))
    return RankedHits(hits, hits.sum(axis=1) + generator.integers(0, 5, queries))


def _every(ranked):
    """All metrics at all ks, [Q, ks] each."""
    ks = range(1, ranked.hits.shape[1] + 1)
    return {name: metric(ranked, list(ks)) for name, metric in METRICS.items()}


@some
@given(ranked_lists(least=20, most=80, longest=6))
def test_a_list_is_worth_the_same_alone_as_among_others(ranked):
    """Alone it is scored as it stands, among many by the table of patterns; to the last bit."""
    together = _every(ranked)
    for row in range(len(ranked.hits)):
        alone = _every(RankedHits(ranked.hits[row : row + 1], ranked.relevant[row : row + 1]))
        for name, values in together.items():
            assert values[row].tolist() == alone[name][0].tolist(), name


def test_lists_too_long_for_a_table_are_scored_as_they_stand(monkeypatch):
    hits = np.random.default_rng(0).random((40, 4)) < 0.5
    by_table, relevant = RankedHits(hits, np.full(40, 5)), np.full(40, 5)
    assert len(by_table.patterns) == 16
    expected = _every(by_table)
    monkeypatch.setattr(metrics, "MOST_TABLED_RANKS", 3)
    as_they_stand = RankedHits(hits, relevant)
    assert as_they_stand.patterns is hits
    for name, values in _every(as_they_stand).items():
        assert values.tolist() == expected[name].tolist()


@some
@given(ranked_lists(), st.data())
def test_moving_a_hit_up_lowers_nothing_but_the_mean_over_hits(ranked, data):
    assume(ranked.hits.shape[1] > 1)
    rank = data.draw(st.integers(0, ranked.hits.shape[1] - 2))
    moved = ranked.hits.copy()
    rows = ~moved[:, rank] & moved[:, rank + 1]
    moved[rows, rank], moved[rows, rank + 1] = True, False
    before, after = _every(ranked), _every(RankedHits(moved, ranked.relevant))
    for name in METRICS:
        change = after[name] - before[name]
        if name == FALLS_WHEN_A_HIT_ENTERS:  # at k = rank + 1 the hit is new to the list
            change = np.delete(change, rank, axis=1)
        assert change.min(initial=0.0) >= -1e-12, name


def test_a_further_hit_can_lower_the_mean_over_hits():
    found, found_more = (RankedHits(np.array([line]), np.array([2])) for line in ([1, 0, 0], [1, 0, 1]))
    assert _every(found)[FALLS_WHEN_A_HIT_ENTERS][0, 2] == 1
    assert _every(found_more)[FALLS_WHEN_A_HIT_ENTERS][0, 2] == pytest.approx(5 / 6)


@some
@given(ranked_lists())
def test_precision_counts_hits(ranked):
    ranks = np.arange(1, ranked.hits.shape[1] + 1)
    counted = _every(ranked)["precision"] * ranks
    np.testing.assert_allclose(counted, np.cumsum(ranked.hits, axis=1), atol=1e-12)
    assert (counted <= np.minimum(ranks, ranked.relevant[:, None]) + 1e-12).all()


@some
@given(ranked_lists())
def test_a_further_miss_changes_precision_alone_where_everything_was_found(ranked):
    """Where hits are still to be found, the two that compare with a perfect list of k fall as well."""
    ranks = ranked.hits.shape[1]
    longer = RankedHits(np.pad(ranked.hits, ((0, 0), (0, 1))), ranked.relevant)
    before, after = _every(ranked), _every(longer)
    complete = ranked.relevant <= ranks
    for name in METRICS:
        assert after[name][:, :-1].tolist() == before[name].tolist()
        last, added = before[name][:, -1], after[name][:, -1]
        if name == "precision":
            np.testing.assert_allclose(added, last * ranks / (ranks + 1), atol=1e-12)
        elif name in ("ap_over_min_k_r", "ndcg"):
            assert added[complete].tolist() == last[complete].tolist()
            assert (added <= last).all()
        else:
            assert added.tolist() == last.tolist()


@some
@given(ranked_lists())
def test_a_metric_is_0_exactly_where_nothing_was_found(ranked):
    nothing = np.cumsum(ranked.hits, axis=1) == 0
    for name, values in _every(ranked).items():
        assert ((values == 0) == nothing).all(), name


@some
@given(ranked_lists())
def test_a_perfect_list_has_the_most_of_everything(ranked):
    perfect = RankedHits(np.arange(ranked.hits.shape[1]) < ranked.relevant[:, None], ranked.relevant)
    best, given_ = _every(perfect), _every(ranked)
    for name in METRICS:
        assert (given_[name] <= best[name] + 1e-12).all(), name
    for name in ("ap_over_min_k_r", "ndcg", "rr", "hit_rate"):
        np.testing.assert_allclose(best[name], np.broadcast_to(ranked.relevant[:, None] > 0, best[name].shape))


@st.composite
def scored_galleries(draw):
    """Scores of made-up lists in a gallery whose labels are 1, 0 or unknown, beside what they were made of."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows, queries, ranks = draw(st.integers(8, 30)), draw(st.integers(1, 40)), draw(st.integers(2, 5))
    labels = generator.integers(-1, 2, (rows, 3)).astype(np.int8)
    neighbours = np.array([generator.permutation(rows)[:ranks] for _ in range(queries)])
    neighbours[np.arange(ranks) >= generator.integers(1, ranks + 1, queries)[:, None]] = -1
    asked = {"queries": generator.integers(rows, size=queries), "relevant": generator.integers(5, 9, (queries, 3))}
    return neighbours, labels, {**asked, "ks": list(range(1, ranks + 1))}


@some
@given(scored_galleries())
def test_a_row_that_is_no_hit_at_the_end_is_worth_as_much_as_no_row(gallery):
    neighbours, labels, asked = gallery
    with_a_miss = np.concatenate([labels, np.zeros((1, 3), np.int8)])
    filled = np.where(neighbours < 0, len(labels), neighbours)
    some, others = score_queries(neighbours, labels, **asked), score_queries(filled, with_a_miss, **asked)
    for one, other in zip(some, others, strict=True):
        assert one.values.tolist() == other.values.tolist()


@some
@given(scored_galleries(), st.permutations(range(3)))
def test_findings_are_scored_apart(gallery, order):
    neighbours, labels, asked = gallery
    scores = score_queries(neighbours, labels, **asked)
    again = score_queries(neighbours, labels[:, order], **{**asked, "relevant": asked["relevant"][:, order]})
    for column, score in zip(order, again, strict=True):
        assert score.positions.tolist() == scores[column].positions.tolist()
        assert score.values.tolist() == scores[column].values.tolist()


@some
@given(scored_galleries())
def test_dropping_queries_without_a_hit_lowers_no_mean_and_the_macro_mean_lies_among_its_findings(gallery):
    neighbours, labels, asked = gallery
    scores = score_queries(neighbours, labels, **asked)
    (kept_n, kept), (dropped_n, dropped) = (class_means(scores, keep_zero_hit_queries=keep) for keep in (True, False))
    assert (dropped_n <= kept_n).all()
    both = ~np.isnan(kept) & ~np.isnan(dropped)
    assert (dropped[both] >= kept[both] - 1e-12).all()
    assume(not np.isnan(kept).all())
    _, macro = macro_mean(kept)
    assert (macro >= np.nanmin(kept, axis=0) - 1e-12).all()
    assert (macro <= np.nanmax(kept, axis=0) + 1e-12).all()
