"""The gate passes what retrieves alike and names what does not, measure by measure."""

from dataclasses import replace

import numpy as np
import pytest

from chextriev.anatomy import N_FINDINGS
from chextriev.errors import CountMismatch, InvalidSetting
from chextriev.eval.bootstrap import macro_change
from chextriev.eval.gate import BUDGETS, ENOUGH_QUERIES, PROTOCOL, TIE, TOP, judge_engine
from chextriev.eval.metrics import METRICS, FindingScores, class_means, macro_mean
from chextriev.eval.protocol import IntervalSpec
from chextriev.eval.run import score_split

WIDTH = 24
FEW_DRAWS = replace(PROTOCOL, interval=IntervalSpec(draws=60))


@pytest.fixture(scope="module")
def small(made_up):
    """90 radiographs of 60 patients."""
    return made_up


@pytest.fixture(scope="module")
def large(embedding_set):
    """1,200 radiographs of 400 patients, most with a finding; the first half of the vectors carries the findings."""
    generator = np.random.default_rng(11)
    count = 1200
    findings = (generator.random((count, N_FINDINGS)) < 0.25).astype(np.int8)
    findings[:, 0] = generator.random(count) < 0.8
    carried = findings @ generator.normal(size=(N_FINDINGS, WIDTH // 2))
    vectors = np.hstack([carried, np.zeros((count, WIDTH // 2))]) + generator.normal(size=(count, WIDTH))
    return embedding_set(vectors, findings, patients=[f"patient-{row // 3}" for row in range(count)])


def moved(embeddings, size, seed=3):
    """Every vector turned away by noise of this size, as a share of its length."""
    noise = np.random.default_rng(seed).normal(size=embeddings.vectors.shape)
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    lengths = np.linalg.norm(embeddings.vectors, axis=1, keepdims=True)
    return replace(embeddings, vectors=(embeddings.vectors + size * lengths * noise).astype(np.float32))


def about(failures):
    """The first word of each failure."""
    return [words.split()[0] for words in failures]


@pytest.mark.parametrize("precision", BUDGETS)
def test_the_same_answers_pass_and_change_nothing(small, precision):
    judged = judge_engine(small, small, precision=precision)
    assert (judged.passed, judged.failures) == (True, ())
    assert judged.measured["cosine"] == pytest.approx(1, abs=1e-6)
    assert judged.measured["overlap"] == 1
    assert judged.measured["rank_correlation"] == pytest.approx(1)
    assert judged.measured["unexplained_swaps"] == 0
    for name in ("ap@5", "precision@5"):
        told = judged.measured[name]
        assert (told["change"], told["interval"]) == (0, (0, 0))
        assert told["reference"] == told["engine"] > 0.2


def test_the_budgets_are_those_that_were_promised():
    assert {name: (budget.overlap, budget.change) for name, budget in BUDGETS.items()} == {
        "fp32": (0.999, 1e-4),
        "fp16": (0.99, 1e-3),
        "int8": (0.95, 5e-3),
    }
    assert BUDGETS["fp32"].cosine == 1 - 1e-4
    with pytest.raises(InvalidSetting, match=r"no budget for precision 'int4'; choose one of fp32, fp16, int8"):
        judge_engine(None, None, precision="int4")


def test_growing_noise_fails_measure_by_measure(small):
    """int8, whose least cosine is .99: noise of 1% of the length costs 5e-5 of it, and 30% costs .04."""
    sizes = (1e-4, 0.02, 0.06, 0.3)
    failed = [about(judge_engine(small, moved(small, size), precision="int8").failures) for size in sizes]
    assert failed == [[], [], ["overlap"], ["cosine", "rank_correlation", "overlap"]]


def test_float32_is_judged_more_strictly_than_float16(small):
    engine = moved(small, 5e-3)
    assert judge_engine(small, engine, precision="int8").passed
    assert not judge_engine(small, engine, precision="fp32").passed


def test_one_bad_radiograph_is_enough_to_fail(small):
    vectors = small.vectors.copy()
    vectors[17] = -vectors[17]
    judged = judge_engine(small, replace(small, vectors=vectors), precision="int8")
    assert judged.measured["cosine"] == pytest.approx(-1)
    assert judged.measured["cosine_mean"] > 0.97
    assert "cosine -1.00000 (at least 0.99)" in judged.failures


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
def test_an_engine_that_overflows_fails_in_words(small, bad):
    vectors = small.vectors.copy()
    vectors[[3, 40]] = bad
    judged = judge_engine(small, replace(small, vectors=vectors), precision="fp16")
    assert not judged.passed
    assert judged.failures[0] == "2 of 90 embeddings are zero or not finite"
    assert judged.measured["cosine"] == pytest.approx(-1)  # counted as the opposite of what PyTorch says


def test_an_engine_of_which_nothing_is_usable_fails_too(small):
    judged = judge_engine(small, replace(small, vectors=np.full_like(small.vectors, np.nan)), precision="fp32")
    assert judged.failures[0] == "90 of 90 embeddings are zero or not finite"


def test_other_radiographs_are_refused(small):
    order = np.arange(len(small))[::-1]
    for engine in (small.take(order), small.take(order[:-1])):
        with pytest.raises(CountMismatch, match=r"90 radiographs by PyTorch, \d+ by the engine; the same, in the same"):
            judge_engine(small, engine, precision="fp32")
    with pytest.raises(CountMismatch, match="0 radiographs by PyTorch"):
        judge_engine(small.take(order[:0]), small.take(order[:0]), precision="fp32")


def test_a_small_sample_says_so_and_is_not_judged_by_its_change(small, monkeypatch):
    judged = judge_engine(small, moved(small, 0.06), precision="int8")
    queries = int((small.findings == 1).any(axis=1).sum())
    assert judged.remarks == (f"small sample, n={queries}",)
    assert judged.measured["queries"] == queries < ENOUGH_QUERIES
    assert abs(judged.measured["ap@5"]["change"]) > BUDGETS["int8"].change
    assert about(judged.failures) == ["overlap"]
    monkeypatch.setattr("chextriev.eval.gate.ENOUGH_QUERIES", queries)
    judged = judge_engine(small, moved(small, 0.06), precision="int8")
    assert judged.remarks == ()
    assert about(judged.failures)[:3] == ["overlap", "ap@5", "precision@5"]


def turned(embeddings, angle):
    """The half of the vectors that carries findings shrunk (angle over 0) or stretched: much alike, worse or better."""
    scale = np.hstack([np.full(WIDTH // 2, 1 - angle), np.full(WIDTH // 2, 1 + angle)])
    return replace(embeddings, vectors=(embeddings.vectors * scale).astype(np.float32))


def test_enough_queries_let_the_change_decide(large):
    judged = judge_engine(large, turned(large, 0.08), precision="int8")
    assert judged.measured["queries"] >= ENOUGH_QUERIES
    assert judged.remarks == ()
    told = judged.measured["ap@5"]
    assert told["change"] < -BUDGETS["int8"].change
    assert told["interval"][1] < 0
    words = " ".join(judged.failures)
    assert f"ap@5 changed by {told['change']:+.5f} (at most 0.005)" in words
    assert "the interval of the change of ap@5" in words
    assert "holds losses alone" in words


def test_an_improvement_within_the_budget_passes(large, monkeypatch):
    """Judged by the change alone: the other measures are given room."""
    monkeypatch.setitem(BUDGETS, "int8", replace(BUDGETS["int8"], overlap=0.5, rank_correlation=0.5, cosine=0.5))
    better = judge_engine(large, turned(large, -0.01), precision="int8")
    assert 0 < better.measured["ap@5"]["change"] < BUDGETS["int8"].change
    assert better.passed
    monkeypatch.setitem(BUDGETS, "int8", replace(BUDGETS["int8"], change=0.05))
    worse = judge_engine(large, turned(large, 0.08), precision="int8")
    assert abs(worse.measured["ap@5"]["change"]) < 0.05
    assert all("holds losses alone" in words for words in worse.failures)
    assert len(worse.failures) >= 1


def ranked_set(embedding_set, scores, *, patients=None):
    """A query and a gallery of these cosines to it; the gallery's own neighbours are of no interest."""
    generator = np.random.default_rng(0)
    rest = generator.normal(size=(len(scores), 40))
    rest /= np.linalg.norm(rest, axis=1, keepdims=True)
    scores = np.asarray(scores, np.float64)[:, None]
    gallery = np.hstack([scores, rest * np.sqrt(1 - scores**2)])
    query = np.eye(1, 41)
    findings = np.ones((len(scores) + 1, N_FINDINGS), np.int8)
    return embedding_set(np.vstack([query, gallery]), findings, patients=patients)


def swap_last(gap):
    """Scores of 12 neighbours, the 10th and 11th this far apart, and the same with both exchanged."""
    scores = np.linspace(0.9, 0.3, 12)
    scores[10] = scores[9] - gap
    swapped = scores.copy()
    swapped[[9, 10]] = scores[[10, 9]]
    return scores, swapped


@pytest.mark.parametrize(("gap", "passes"), [(1e-6, True), (5e-5, False)])
def test_only_ties_may_change_places_in_float32(embedding_set, gap, passes):
    assert (gap < TIE) == passes
    before, after = (ranked_set(embedding_set, scores) for scores in swap_last(gap))
    judged = judge_engine(before, after, precision="fp32")
    assert judged.measured["overlap"] < 1
    assert (judged.measured["unexplained_swaps"] == 0) == passes
    assert any("no score ties" in words for words in judged.failures) == (not passes)


def test_a_swap_that_is_no_tie_fails_however_rare(small, monkeypatch):
    """Of a small sample; the overlap would allow one in a thousand."""
    monkeypatch.setitem(BUDGETS, "fp32", replace(BUDGETS["fp32"], cosine=0, rank_correlation=0, overlap=0.5))
    judged = judge_engine(small, moved(small, 0.02), precision="fp32")
    swaps = judged.measured["unexplained_swaps"]
    assert swaps > 0
    assert judged.failures == (f"{swaps} neighbours are others than PyTorch's, and no score ties within 1e-05",)


def test_images_of_the_same_patient_are_never_neighbours(embedding_set):
    """Every patient's second image is turned about: were it a neighbour, its loss would show."""
    generator = np.random.default_rng(2)
    first = generator.normal(size=(20, WIDTH))
    vectors = np.vstack([first, first + 1e-3 * generator.normal(size=first.shape)])
    patients = [f"patient-{row % 20}" for row in range(40)]
    findings = np.ones((40, N_FINDINGS), np.int8)
    pairs = embedding_set(vectors, findings, patients=patients)
    judged = judge_engine(pairs, pairs, precision="fp32")
    assert judged.measured["precision@5"]["reference"] == 1
    alone = embedding_set(vectors, np.eye(40, N_FINDINGS, dtype=np.int8), patients=patients)
    alone.findings[20] = alone.findings[0]  # the only image with the finding of image 0 is its twin
    assert judge_engine(alone, alone, precision="fp32").measured["precision@5"]["reference"] == 0


@pytest.mark.parametrize("patients", [1, 2, 10])
def test_few_radiographs_are_judged(embedding_set, patients):
    """One patient alone has no neighbour; fewer than eleven have short lists."""
    generator = np.random.default_rng(4)
    vectors, findings = generator.normal(size=(10, WIDTH)), np.ones((10, N_FINDINGS), np.int8)
    few = embedding_set(vectors, findings, patients=[f"patient-{row % patients}" for row in range(10)])
    assert len(few) <= TOP
    judged = judge_engine(few, few, precision="fp32")
    assert judged.passed
    assert judged.remarks == ("small sample, n=10",)
    assert not judge_engine(few, moved(few, 0.8), precision="int8").passed


def test_a_split_without_a_finding_is_judged_by_nearness(small):
    healthy = replace(small, findings=np.zeros_like(small.findings))
    judged = judge_engine(healthy, healthy, precision="fp32")
    assert judged.passed
    assert judged.remarks == ("small sample, n=0",)
    assert judged.measured["ap@5"] == {"reference": None, "engine": None, "change": 0.0, "interval": (0.0, 0.0)}
    assert not judge_engine(healthy, moved(healthy, 0.3), precision="int8").passed


def plain_macro(scores, rows, kept):
    """Macro average over findings of the queries at these positions; `kept` where a finding has none of them."""
    means = []
    for column, score in enumerate(scores):
        drawn = [value for row in rows for value, at in zip(score.values, score.positions, strict=True) if at == row]
        means.append(np.mean(drawn, axis=0) if drawn else kept[column])
    return np.nanmean(means, axis=0)


def test_the_interval_is_that_of_a_plain_bootstrap_of_the_same_draws(small):
    some = small.take(np.arange(0, 60))
    (before, patients), (after, _) = (score_split(item, FEW_DRAWS) for item in (some, moved(some, 0.5)))
    change, bounds = macro_change(before, after, patients, FEW_DRAWS)
    names, kept = np.unique(patients), [class_means(scores)[1] for scores in (before, after)]
    generator, differences = np.random.default_rng(FEW_DRAWS.interval.seed), []
    for drawn in generator.integers(len(names), size=(FEW_DRAWS.interval.draws, len(names))):
        rows = [row for patient in drawn for row in np.flatnonzero(patients == names[patient])]
        both = [plain_macro(scores, rows, mean) for scores, mean in zip((before, after), kept, strict=True)]
        differences.append(both[1] - both[0])
    np.testing.assert_allclose(bounds, np.quantile(differences, [0.025, 0.975], axis=0), atol=1e-12)
    np.testing.assert_allclose(change, macro_mean(kept[1])[1] - macro_mean(kept[0])[1], atol=1e-12)
    assert (bounds[0] < change).all()
    assert (change < bounds[1]).all()


def test_a_system_beside_itself_has_an_interval_of_nothing(small):
    scores, patients = score_split(small, FEW_DRAWS)
    change, bounds = macro_change(scores, scores, patients, FEW_DRAWS)
    assert not change.any()
    assert not bounds.any()


def test_patients_not_images_are_drawn():
    """Every image of a patient changes alike, so that drawing images would give a narrower interval."""
    generator = np.random.default_rng(1)
    gains = np.repeat(generator.normal(0, 0.1, 20), 10)

    def scores(values):
        return [FindingScores(np.arange(200), np.tile(values[:, None, None], (1, len(METRICS), 1)))]

    before, after = scores(np.full(200, 0.5)), scores(0.5 + gains)
    widths = []
    for clusters in (np.repeat(np.arange(20), 10), np.arange(200)):
        bounds = macro_change(before, after, clusters, PROTOCOL)[1][:, 0, 0]
        widths.append(bounds[1] - bounds[0])
    assert widths[0] > 2 * widths[1]
