"""Verdicts over conventions, every pair of several systems, and what is told and drawn of them."""

import json
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest

from chextriev.artifacts import read_manifest
from chextriev.cli import EXIT_REFUSED, main
from chextriev.errors import InvalidSetting
from chextriev.eval.compare import CONVENTIONS, Cell, Ruling, Verdict, compare
from chextriev.eval.compare_picture import draw_compare
from chextriev.eval.compare_store import KIND, write_comparison
from chextriev.eval.compare_text import Shown, format_difference, format_p, render_compare
from chextriev.eval.metrics import METRICS, FindingScores
from chextriev.eval.run import evaluate
from chextriev.eval.significance import SignificanceSettings
from chextriev.eval.store import write_evaluation
from tests.eval.by_hand import scored

QUICK = SignificanceSettings(draws=300)
SVG = "{http://www.w3.org/2000/svg}"
NOTHING = Cell(None, None, None, None, None, None)


@pytest.fixture(scope="module")
def three():
    """v4, v5 and v6 on 80 patients: v6 is better than the others, which are alike; the names need care in a page."""
    generator = np.random.default_rng(6)
    values = generator.random((3, 80, 2)) * 0.3 + [[[0.2, 0.2]], [[0.2, 0.2]], [[0.4, 0.2]]]
    names = ("v4", "v5 <b>|", "v6")
    findings = ("pneumonia", "edema & more")
    return [scored(of, range(80), name=name, findings=findings) for of, name in zip(values, names, strict=True)]


@pytest.fixture(scope="module")
def comparison(three):
    return compare(three, QUICK)


def _verdict(winners):
    rulings = [Ruling(*convention, NOTHING, winner) for convention, winner in zip(CONVENTIONS, winners, strict=True)]
    return Verdict("v5", "v6", 5, tuple(rulings))


@pytest.mark.parametrize(
    ("winners", "words"),
    [
        (["v6"] * 2 + [None] * 4, "v6 over v5 under 2 of 6 conventions at k = 5; not distinguishable under 4"),
        (["v5"] * 6, "v5 over v6 under all 6 conventions at k = 5"),
        ([None] * 6, "v6 and v5 are not distinguishable under any of 6 conventions at k = 5"),
        (
            ["v6", "v5", "v6", None, None, None],
            "the winner changes with the convention at k = 5: v5 over v6 under 1 of 6, v6 over v5 under 2 of 6;"
            " not distinguishable under 3",
        ),
        (
            ["v6", "v5"] * 3,
            "the winner changes with the convention at k = 5: v5 over v6 under 3 of 6, v6 over v5 under 3 of 6",
        ),
    ],
)
def test_the_verdict_in_words(winners, words):
    assert str(_verdict(winners)) == words


@pytest.mark.parametrize(
    ("interval", "p_holm", "decided"),
    [
        ((0.1, 0.2), 0.01, True),
        ((-0.2, -0.1), 0.01, True),
        ((-0.1, 0.2), 0.01, False),
        ((0.0, 0.2), 0.01, False),
        ((0.1, 0.2), 0.05, False),
        ((0.1, 0.2), None, False),
        (None, 0.01, False),
    ],
)
def test_a_difference_is_decided_where_interval_and_p_agree(interval, p_holm, decided):
    assert Cell(0.1, interval, 0.01, p_holm, 0.1, 0.2).is_decided(0.95) is decided


def test_a_winner_that_changes_with_the_convention_is_named_each_time():
    many_hits = np.tile([[0.5], [0.4]], (60, 1))
    few_good_hits = np.tile([[0.7], [0.0]], (60, 1))
    pair = compare([scored(many_hits, range(120)), scored(few_good_hits, range(120), name="b")], QUICK).pairs[0]
    winners = {(ruling.metric, ruling.zero_hits): ruling.winner for ruling in pair.verdict(5).rulings}
    assert winners == {(metric, kept): "a" if kept == "kept" else "b" for metric, kept in CONVENTIONS}
    assert str(pair.verdict(5)).startswith("the winner changes with the convention at k = 5: a over b under 3 of 6")


def test_every_pair_is_there_and_the_averages_are_adjusted_over_pairs(comparison):
    pairs = [(pair.difference.first, pair.difference.second) for pair in comparison.pairs]
    assert pairs == [("v4", "v5 <b>|"), ("v4", "v6"), ("v5 <b>|", "v6")]
    cells = [pair.cell("macro", "rr", 5) for pair in comparison.pairs]
    p = sorted(cell.p for cell in cells)
    assert sorted(cell.p_holm for cell in cells) == pytest.approx([3 * p[0], max(3 * p[0], 2 * p[1]), p[2]])
    assert [bool(pair.verdict(5).winners) for pair in comparison.pairs] == [False, True, True]
    assert cells[1].effect == pytest.approx(cells[1].second - cells[1].first)


def test_a_single_pair_needs_no_adjustment_of_its_averages(three):
    cell = compare(three[:2], QUICK).pairs[0].cell("weighted", "ndcg", 5, zero_hits="dropped")
    assert cell.p_holm == cell.p


@pytest.mark.parametrize("names", [["v4"], ["v4", "v6", "v4"]])
def test_too_few_systems_and_names_that_stand_twice_are_refused(three, names):
    with pytest.raises(InvalidSetting, match=r"at least two|not unique"):
        compare([replace(three[0], name=name) for name in names], QUICK)


def test_the_json_holds_every_number_and_nothing_else_than_plain_values(comparison):
    content = json.loads(json.dumps(comparison.as_dict(), allow_nan=False))
    assert content["systems"] == ["v4", "v5 <b>|", "v6"]
    assert content["n_by_finding"] == {"pneumonia": 80, "edema & more": 80}
    at_5 = content["pairs"][1]["k"]["5"]
    assert set(at_5) == {"verdict", "kept", "dropped"}
    assert set(at_5["kept"]["macro"]) == set(METRICS) == set(at_5["dropped"]["per_finding"]["pneumonia"])
    assert list(at_5["kept"]["macro"]["rr"])[:2] == ["effect", "interval"]
    assert at_5["verdict"]["winners"] == {"v6": 6}
    assert at_5["kept"]["n_averaged"] == 2


def test_effect_and_interval_stand_before_p(comparison):
    text = render_compare(comparison, Shown())
    assert "| finding | queries | difference | interval | p | p, Holm | v6 | v4 |" in text
    effect, bounds = format_difference(comparison.pairs[1].cell("pneumonia", "ap_over_hits", 5))
    assert f"| pneumonia | 80 | {effect} | {bounds} |" in text
    assert "- v6 over v4 under all 6 conventions at k = 5." in text
    assert "v5 <b>\\|" in text
    assert "Chance differs" not in text
    assert all(line.count(" | ") == 7 for line in text.splitlines() if line.startswith("| pneumonia"))


def test_systems_with_other_chance_are_remarked_on(three):
    elsewhere = tuple(FindingScores(part.positions, part.values + 0.1) for part in three[1].chance)
    text = render_compare(compare([three[0], replace(three[1], chance=elsewhere)], QUICK), Shown())
    assert "Chance differs between the two" in text


@pytest.mark.parametrize("shown", [Shown(k=3), Shown(metric="accuracy")])
def test_what_was_not_measured_cannot_be_shown(comparison, shown):
    for show in (render_compare, draw_compare):
        with pytest.raises(InvalidSetting, match="choose one of"):
            show(comparison, shown)


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        (Cell(0.0314, (-0.02, 0.08), 0.1, 0.1, 0, 0), ("+0.031", "\N{MINUS SIGN}0.020 to +0.080")),
        (Cell(-0.0012, (-0.0031, 0.00004), 0.1, 0.1, 0, 0), ("\N{MINUS SIGN}0.0012", "\N{MINUS SIGN}0.0031 to 0.0000")),
        (Cell(0.2, None, 0.1, 0.1, 0, 0), ("+0.200", "\N{EN DASH}")),
        (NOTHING, ("\N{EN DASH}", "\N{EN DASH}")),
    ],
)
def test_small_differences_get_a_digit_more(cell, words):
    assert format_difference(cell) == words


def test_p_is_never_shown_as_0():
    shown = [format_p(value) for value in (0.0001, 0.0123, 0.123, 1.0, None)]
    assert shown == ["< 0.001", "0.012", "0.12", "1.00", "\N{EN DASH}"]


def test_the_picture_has_a_mark_and_a_bar_a_row_filled_where_it_is_decided(comparison):
    picture = ElementTree.fromstring(draw_compare(comparison, Shown()))
    marks = [item for item in picture.iter() if "mark" in item.get("class", "").split()]
    filled = [item for item in marks if "open" not in item.get("class")]
    assert len(marks) == 3 * 4 == len([item for item in picture.iter(f"{SVG}path") if item.get("class") == "bar"])
    assert len(filled) == 2 * 3
    texts = [item.text for item in picture.iter(f"{SVG}text")]
    assert "v6 less v5 <b>|" in texts
    assert "edema & more" in texts


def test_a_mark_stands_right_of_zero_where_the_second_is_better(comparison):
    picture = ElementTree.fromstring(draw_compare(comparison, Shown()))
    zero = float(next(item for item in picture.iter(f"{SVG}line") if item.get("class") == "zero").get("x1"))
    marks = [float(item.get("cx")) for item in picture.iter(f"{SVG}circle")]
    effects = [
        pair.cell(name, "ap_over_hits", 5).effect for pair in comparison.pairs for name in ("pneumonia", "edema & more")
    ]
    assert [mark > zero for mark in marks] == [effect > 0 for effect in effects]


def test_a_comparison_without_any_number_can_be_drawn_and_told():
    nobody = np.full((4, 1), np.nan)
    empty = compare([scored(nobody, "aabb"), scored(nobody, "aabb", name="b")], QUICK)
    assert "not distinguishable under any" in render_compare(empty, Shown())
    picture = ElementTree.fromstring(draw_compare(empty, Shown()))
    assert not [item for item in picture.iter() if "mark" in item.get("class", "").split()]
    json.dumps(empty.as_dict(), allow_nan=False)


@pytest.fixture(scope="module")
def evaluations(made_up, tmp_path_factory):
    """Folders of two evaluations of the same radiographs."""
    generator = np.random.default_rng(1)
    folders = []
    for name, noise in (("v5", 1.0), ("v6", 3.0)):
        vectors = made_up.vectors + noise * generator.normal(size=made_up.vectors.shape).astype(np.float32)
        folders.append(tmp_path_factory.mktemp("evaluations") / name)
        write_evaluation(folders[-1], evaluate(replace(made_up, vectors=vectors)))
    return folders


def test_the_command_compares_prints_and_publishes(evaluations, tmp_path, capsys):
    words = ["eval", "compare", *map(str, evaluations), "--draws", "200", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "# v6 against v5" in printed
    assert "conventions at k = 10" in printed
    assert (tmp_path / "out" / "compare.md").read_text() == printed[:-1]
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "out" / "compare.json").read_text())
    manifest = read_manifest(tmp_path / "out", KIND)
    assert dict(manifest.recipe.parents) == {
        folder.name: read_manifest(folder, "evaluation").digest for folder in evaluations
    }
    assert set(manifest.files) == {"compare.json", "compare.md", "compare.svg"}


def test_names_can_be_given_and_the_metric_and_k_chosen(evaluations, capsys):
    words = ["--names", "ours", "theirs", "--metric", "rr", "--k", "10", "--draws", "50"]
    assert main(["eval", "compare", *map(str, evaluations), *words]) == 0
    printed = capsys.readouterr().out
    assert "## theirs less ours" in printed
    assert "### RR@10 of each finding" in printed


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--names", "one"], "InvalidSetting: --names one: 2 are needed"),
        (["--k", "4"], "InvalidSetting: k = 4 was not evaluated; choose one of 3, 5, 10"),
        (["--metric", "auc"], "InvalidSetting: no metric 'auc'"),
        (["--draws", "0"], "InvalidSetting: significance"),
        (["--names", "x", "x"], "not unique"),
    ],
)
def test_wrong_input_is_refused_in_words(evaluations, tmp_path, capsys, words, expected):
    command = ["eval", "compare", *map(str, evaluations), "--draws", "20", "--out", str(tmp_path / "out"), *words]
    assert main(command) == EXIT_REFUSED
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_comparison_is_published_with_defaults(comparison, tmp_path):
    manifest = write_comparison(tmp_path / "out", comparison, evaluations={"v4": "d" * 64})
    assert manifest.recipe.settings["shown"] == {"k": 5, "metric": "ap_over_hits"}
