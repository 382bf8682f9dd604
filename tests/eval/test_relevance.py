"""Findings with a side, and numbers of every query that come back from disk as they were."""

from dataclasses import replace

import numpy as np
import pytest

from chextriev.anatomy import LATERALISED_FINDINGS, N_FINDINGS, N_REGIONS, Finding, Region
from chextriev.errors import CountMismatch, InvalidValue
from chextriev.eval.protocol import DEFAULT, IntervalSpec
from chextriev.eval.query_table import read_queries, write_queries
from chextriev.eval.relevance import Relevance, lateralised_findings, with_sides
from chextriev.eval.run import evaluate
from chextriev.eval.store import read_scores, write_evaluation

FEW = replace(DEFAULT, interval=IntervalSpec(draws=20))


def test_a_side_has_what_a_region_of_it_has():
    regions = np.zeros((3, N_REGIONS, N_FINDINGS), np.int8)
    regions[0, Region.RIGHT_APICAL_ZONE, Finding.PNEUMONIA] = 1
    regions[0, Region.LEFT_LUNG, Finding.PNEUMONIA] = -1
    regions[1, Region.LEFT_COSTOPHRENIC_ANGLE, Finding.PLEURAL_EFFUSION] = 1
    regions[1, Region.LEFT_LUNG, Finding.PLEURAL_EFFUSION] = -1
    regions[2, Region.CARDIAC_SILHOUETTE, Finding.HEART_FAILURE] = 1  # on no side
    images = np.zeros((3, N_FINDINGS), np.int8)
    images[2, Finding.ENLARGED_CARDIAC_SILHOUETTE] = 1
    labels = with_sides(regions, images)
    found = {(row, LATERALISED_FINDINGS[column]): int(labels[row, column]) for row, column in np.argwhere(labels)}
    assert found == {
        (0, "right pneumonia"): 1,
        (0, "left pneumonia"): -1,
        (1, "left pleural effusion"): 1,
        (2, "enlarged cardiac silhouette"): 1,
    }


def test_there_are_seventeen_and_they_take_the_rows_of_the_table(made_up, pictures):
    regions = np.zeros((len(made_up), N_REGIONS, N_FINDINGS), np.int8)
    regions[:, Region.LEFT_LUNG, Finding.ATELECTASIS] = np.arange(len(made_up)) % 2
    table = replace(pictures, region_findings=regions)
    order = np.arange(len(made_up))[::-1]
    found = lateralised_findings(made_up.take(order), table)
    column = found.names.index("left atelectasis")
    assert len(found.names) == found.labels.shape[1] == 17
    assert found.labels[:, column].tolist() == (order % 2).tolist()
    evaluation = evaluate(made_up.take(order), FEW, relevance=found)
    assert evaluation.overall.at_k[5].measured.per_finding["left atelectasis"].n == len(made_up) // 2
    with pytest.raises(InvalidValue, match="the study table lacks 45 of the 90"):
        lateralised_findings(made_up, table.take(order[:45]))


def test_labels_that_do_not_fit_are_refused(made_up):
    with pytest.raises(CountMismatch, match="beside 2 names"):
        Relevance(("one", "two"), made_up.findings)
    with pytest.raises(CountMismatch, match="labels of 3 radiographs beside 90"):
        evaluate(made_up, relevance=Relevance(Finding.labels(), made_up.findings[:3]))


def test_the_numbers_of_every_query_come_back_as_they_were(made_up, tmp_path):
    scored = evaluate(made_up, FEW, name="v6").scored
    write_queries(scored, tmp_path / "queries.parquet")
    again = read_queries(tmp_path / "queries.parquet")
    assert (again.name, again.findings, again.ks) == ("v6", Finding.labels(), (3, 5, 10))
    assert again.query_ids.tolist() == scored.query_ids.tolist()
    assert again.patients.tolist() == scored.patients.tolist()
    assert again.n_candidates.tolist() == scored.n_candidates.tolist()
    for ours, theirs in zip((*again.measured, *again.chance), (*scored.measured, *scored.chance), strict=True):
        order = np.argsort(theirs.positions)
        assert ours.positions.tolist() == theirs.positions[order].tolist()
        np.testing.assert_array_equal(ours.values, theirs.values[order])


def test_scores_are_read_from_an_evaluation_and_named_as_its_folder(made_up, tmp_path):
    write_evaluation(tmp_path / "first", evaluate(made_up, FEW))
    write_evaluation(tmp_path / "second", evaluate(made_up, FEW, name="v6"))
    assert [read_scores(tmp_path / name).name for name in ("first", "second")] == ["first", "v6"]


def test_a_choice_of_queries_keeps_their_numbers(made_up):
    scored = evaluate(made_up, FEW).scored
    rows = np.array([5, 2, 9])
    few = scored.of_queries(rows)
    assert few.query_ids.tolist() == scored.query_ids[rows].tolist()
    for ours, theirs in zip(few.measured, scored.measured, strict=True):
        for position, values in zip(ours.positions, ours.values, strict=True):
            row = int(np.flatnonzero(theirs.positions == rows[position])[0])
            np.testing.assert_array_equal(values, theirs.values[row])


def test_what_is_printed_of_an_evaluation_names_nobody(made_up):
    evaluation = evaluate(made_up, FEW)
    for said in (repr(evaluation), repr(evaluation.scored), repr(evaluation.lists)):
        assert "image-0" not in said
        assert "patient-" not in said
