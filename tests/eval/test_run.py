"""Evaluation of tiny embeddings, whose lists can be read off, and what the evaluation says on disk."""

import json
from dataclasses import replace

import numpy as np
import pytest

from chextriev.anatomy import Finding
from chextriev.artifacts import find_current, read_manifest
from chextriev.errors import DamagedArtifact, EmptySplit, InvalidSetting, InvalidValue, UnknownProtocol
from chextriev.eval.bootstrap import intervals
from chextriev.eval.candidates import Candidates
from chextriev.eval.evaluation_text import render_evaluation
from chextriev.eval.metrics import METRICS, FindingScores
from chextriev.eval.protocol import DEFAULT, IntervalSpec, Protocol, find_protocol
from chextriev.eval.run import evaluate
from chextriev.eval.store import KIND, read_evaluation, recipe_of, write_evaluation

PROTOCOL = replace(DEFAULT, ks=(1, 2), interval=IntervalSpec(draws=50))


@pytest.fixture
def fan(embedding_set):
    """Five directions in a fan, so that neighbours follow the angle; 0 and 1 are one patient."""
    angles = np.radians([0, 10, 25, 45, 70])
    findings = np.zeros((5, 9), np.int8)
    findings[:, Finding.PNEUMONIA] = [1, 1, 1, -1, 0]
    findings[4, Finding.ATELECTASIS] = 1
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1) * [[1], [5], [1], [2], [3]]
    return embedding_set(vectors, findings, patients=["a", "a", "b", "c", "d"])


def test_lists_leave_out_the_patient_and_numbers_follow(fan):
    evaluation = evaluate(fan, PROTOCOL)
    ids = [[int(name[-3:]) for name in line] for line in evaluation.lists.neighbour_ids]
    assert evaluation.lists.query_ids.tolist() == ["image-000", "image-001", "image-002", "image-004"]
    assert ids == [[2, 3], [2, 3], [1, 3], [3, 2]]
    at_2 = evaluation.overall.at_k[2]
    pneumonia, atelectasis = (at_2.measured.per_finding[name] for name in ("pneumonia", "atelectasis"))
    assert (pneumonia.n, pneumonia.precision, pneumonia.ap_over_min_k_r) == (3, 0.5, pytest.approx(2.5 / 3))
    assert (atelectasis.n, atelectasis.precision, atelectasis.ap_over_min_k_r) == (1, 0, 0)
    assert at_2.measured.per_finding["pneumothorax"].precision is None
    assert (at_2.measured.n_classes, at_2.measured.macro.n, at_2.measured.macro.precision) == (2, 4, 0.25)


def test_findings_that_no_query_has_are_named_with_what_becomes_of_them(fan):
    told = {
        name: render_evaluation(evaluate(fan, replace(find_protocol(name), ks=(1, 2))))
        for name in ("default", "reference", "reference-skip")
    }
    assert "Findings that no query has are left out of the averages: lung opacity, pleural " in told["default"]
    assert "## k = 2: macro average over 2 findings\n" in told["default"]
    for name in ("reference", "reference-skip"):  # skipping leaves atelectasis without a query, which is not the same
        line = next(line for line in told[name].splitlines() if "count as 0 in the averages, as published: " in line)
        note, _, rest = line.partition("as published: ")[2].partition(".")
        assert "pneumothorax" in note
        assert "atelectasis" not in note
        assert ("every query was dropped that has atelectasis" in rest) == (name == "reference-skip")
    assert "## k = 2: macro average over 9 findings\n" in told["reference"]


def test_chance_counts_candidates_and_hits_after_the_exclusions(fan):
    at_1 = evaluate(fan, PROTOCOL).overall.at_k[1]
    assert at_1.chance.per_finding["pneumonia"].precision == pytest.approx((1 / 3 + 1 / 3 + 2 / 4) / 3)
    assert at_1.chance.per_finding["atelectasis"].precision == 0


def test_the_same_patient_can_be_kept(fan):
    evaluation = evaluate(fan, replace(PROTOCOL, exclude_same_patient=False))
    assert evaluation.lists.neighbour_ids[0, 0] == "image-001"
    everything = replace(PROTOCOL, exclude_same_patient=False, exclude_self=False)
    assert evaluate(fan, everything).lists.neighbour_ids[0, 0] == "image-000"


def test_lists_that_run_out_are_counted_and_precision_still_divides_by_k(fan):
    evaluation = evaluate(fan, replace(PROTOCOL, ks=(1, 4)))
    assert evaluation.overall.n_short == 2
    assert evaluation.lists.neighbour_ids[0].tolist() == ["image-002", "image-003", "image-004", None]
    assert evaluation.lists.scores[0, -1] == -np.inf
    assert evaluation.overall.at_k[4].measured.per_finding["pneumonia"].precision == pytest.approx((1 + 1 + 2) / 12)


@pytest.mark.parametrize("excluded", [None, [0, 0, 1, 2]])
def test_candidates_and_hits_are_counted_as_a_loop_counts_them(excluded):
    labels = np.array([[1, 0], [1, -1], [0, 1], [1, 1]], np.int8)
    queries = np.array([0, 3, 2])
    codes = None if excluded is None else np.array(excluded)
    candidates, relevant = Candidates(queries, codes).count(labels)
    allowed = [[row for row in range(4) if codes is None or codes[row] != codes[query]] for query in queries]
    assert candidates.tolist() == [len(rows) for rows in allowed]
    assert relevant.tolist() == [(labels[rows] == 1).sum(axis=0).tolist() for rows in allowed]


def test_numbers_within_a_view_equal_an_evaluation_of_that_view_alone(made_up):
    evaluation = evaluate(made_up)
    for view in ("AP", "PA"):
        alone = evaluate(made_up.take(np.flatnonzero(made_up.metadata["view"] == view)))
        assert evaluation.views[view] == alone.overall
        assert evaluation.views[view].n_queries >= 20


def test_of_a_view_with_few_queries_not_even_their_number_is_told(fan):
    evaluation = evaluate(fan, PROTOCOL)
    assert (evaluation.views, evaluation.views_withheld) == ({}, {"AP": "< 20"})
    assert evaluation.strata.strata["view"]["AP"].size == "< 20"


def test_dropping_zero_hit_queries_raises_the_mean_and_lowers_n(made_up):
    kept = evaluate(made_up).overall.at_k[3]
    dropped = evaluate(made_up, replace(DEFAULT, keep_zero_hit_queries=False)).overall.at_k[3]
    assert dropped.measured.macro.n < kept.measured.macro.n
    assert dropped.measured.macro.hit_rate == dropped.chance.macro.hit_rate == 1
    assert dropped.measured.macro.rr > kept.measured.macro.rr
    assert dropped.chance.macro.rr > kept.chance.macro.rr


def test_vectors_without_information_score_as_chance_says(embedding_set):
    generator = np.random.default_rng(5)
    findings = (generator.random((400, 9)) < 0.3).astype(np.int8)
    scores = evaluate(embedding_set(generator.normal(size=(400, 16)), findings)).overall.at_k[5]
    for name in METRICS:
        assert getattr(scores.measured.macro, name) == pytest.approx(getattr(scores.chance.macro, name), abs=0.03)


def test_the_interval_repeats_and_holds_the_average(made_up):
    first, second = evaluate(made_up), evaluate(made_up)
    assert first.as_dict() == second.as_dict()
    for scores in first.overall.at_k.values():
        for name, (low, high) in scores.interval.items():
            assert low < getattr(scores.measured.macro, name) < high


def test_patients_are_drawn_whole():
    generator = np.random.default_rng(2)
    values = np.repeat(generator.random((30, len(METRICS), 1)), 10, axis=0)
    scores = [FindingScores(np.arange(300), values)]
    by_patient = intervals(scores, np.repeat(np.arange(30), 10), DEFAULT).macro
    by_image = intervals(scores, np.arange(300), DEFAULT).macro
    ratio = (by_patient[1] - by_patient[0]) / (by_image[1] - by_image[0])
    assert ratio.mean() == pytest.approx(np.sqrt(10), rel=0.15)


def test_a_rare_finding_does_not_lift_the_interval_when_it_is_not_drawn():
    common = FindingScores(np.arange(100), np.full((100, len(METRICS), 1), 0.6))
    rare = FindingScores(np.array([0]), np.zeros((1, len(METRICS), 1)))
    low, high = intervals([common, rare], np.arange(100), DEFAULT).macro
    assert low == pytest.approx(0.3)
    assert high == pytest.approx(0.3)


@pytest.mark.parametrize(("value", "words"), [(np.nan, "not finite"), (np.inf, "not finite"), (0, "is zero")])
def test_vectors_without_a_cosine_are_refused_by_image_id(fan, value, words):
    fan.vectors[3] = value
    with pytest.raises(InvalidValue, match=f"'image-003' .*{words}"):
        evaluate(fan)


def test_what_cannot_be_evaluated_is_refused_by_name(fan, embedding_set):
    with pytest.raises(EmptySplit, match="'validate'"):
        evaluate(fan, split="validate")
    with pytest.raises(InvalidValue, match="'test' is known to have a finding"):
        evaluate(embedding_set(np.ones((2, 2)), np.zeros((2, 9))))
    with pytest.raises(InvalidValue, match="'image-001' has no patient_id"):
        evaluate(embedding_set(np.ones((2, 2)), np.ones((2, 9)), patients=["a", None]))
    with pytest.raises(InvalidValue, match=r"^image '4' has no patient_id"):  # ids of a .npy file may be numbers
        evaluate(replace(fan, image_id=np.arange(5), patient_id=np.array([*"abcd", None], object)))


def test_an_evaluation_reads_back_as_it_was_written(made_up, fan, tmp_path):
    for name, evaluation in (("a", evaluate(made_up)), ("b", evaluate(fan, replace(PROTOCOL, ks=(1, 4))))):
        write_evaluation(tmp_path / name, evaluation)
        again = read_evaluation(tmp_path / name)
        assert again.as_dict() == evaluation.as_dict()
        assert again.protocol == evaluation.protocol
        assert again.parents == evaluation.parents
        for field in ("query_ids", "neighbour_ids", "scores"):
            np.testing.assert_array_equal(getattr(again.lists, field), getattr(evaluation.lists, field))


def test_the_artefact_has_the_documented_keys_and_parents(made_up, tmp_path):
    evaluation = evaluate(made_up)
    write_evaluation(tmp_path / "out", evaluation)
    content = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert {"protocol", "split", "n_queries", "n_short", "k", "view"} <= set(content)
    assert list(content["k"]) == ["3", "5", "10"]
    at_5 = content["k"]["5"]
    assert list(at_5["per_finding"]) == list(Finding.labels())
    assert list(at_5["macro"]) == ["n", *METRICS] == list(at_5["chance"]["macro"])
    assert list(at_5["chance"]["per_finding"]["pneumonia"]) == ["n", *METRICS]
    manifest = read_manifest(tmp_path / "out", KIND)
    assert dict(manifest.recipe.parents) == {"embeddings": made_up.digest, "encoder": made_up.encoder_digest}
    recipe = recipe_of(DEFAULT, split="test", parents=manifest.recipe.parents)
    assert find_current(tmp_path / "out", KIND, recipe) == manifest
    markdown = (tmp_path / "out" / "evaluation.md").read_text()
    macro = evaluation.overall.at_k[5]
    assert f"| {macro.measured.macro.precision:.3f} |" in markdown
    assert f"| {macro.chance.macro.precision:.3f} |" in markdown


def test_a_changed_evaluation_is_refused(made_up, tmp_path):
    write_evaluation(tmp_path / "out", evaluate(made_up))
    (tmp_path / "out" / "evaluation.json").write_text("{}")
    with pytest.raises(DamagedArtifact, match=r"evaluation\.json"):
        read_evaluation(tmp_path / "out")


def test_a_failure_while_writing_leaves_nothing(made_up, tmp_path, monkeypatch):
    def fail(evaluation):
        raise KeyboardInterrupt

    monkeypatch.setattr("chextriev.eval.store.render_evaluation", fail)
    with pytest.raises(KeyboardInterrupt):
        write_evaluation(tmp_path / "out", evaluate(made_up))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"ks": ()}, "k = nothing"),
        ({"ks": (5, 3)}, "k = 5, 3"),
        ({"ks": (0, 3)}, "k = 0, 3"),
        ({"exclude_self": False}, "set exclude_self too"),
    ],
)
def test_a_protocol_checks_itself(settings, words):
    with pytest.raises(InvalidSetting, match=words):
        replace(DEFAULT, **settings)


def test_protocols_are_found_by_name_and_saved_whole():
    assert find_protocol("default") is DEFAULT
    assert Protocol.from_dict(json.loads(json.dumps(DEFAULT.as_dict()))) == DEFAULT
    with pytest.raises(UnknownProtocol, match="choose one of default"):
        find_protocol("mine")
    with pytest.raises(InvalidSetting, match="not a protocol"):
        Protocol.from_dict({**DEFAULT.as_dict(), "colour": "red"})
    with pytest.raises(InvalidSetting, match="draws >= 1"):
        IntervalSpec(draws=0)
