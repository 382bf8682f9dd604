"""The ready sections of a report say what the parts they come from measured."""

import base64
import json
import os
import re
from dataclasses import replace

import numpy as np
import pytest

from chextriev.artifacts import Recipe, publishing, seal
from chextriev.cli import EXIT_REFUSED, main
from chextriev.encoder import open_encoder
from chextriev.eval.cases import Choice, read_cases
from chextriev.eval.compare import compare
from chextriev.eval.compare_text import Shown
from chextriev.eval.evaluation import RankedLists
from chextriev.eval.markdown import METRIC_NAMES
from chextriev.eval.occlusion_run import OcclusionSettings, occlude_vectors, read_occlusion
from chextriev.eval.protocol import IntervalSpec
from chextriev.eval.report import render_report, render_report_markdown, report_as_dict
from chextriev.eval.report_parts import all_sections, comparison_section, occlusion_section, with_region_pairs
from chextriev.eval.significance import SignificanceSettings
from chextriev.eval.store import write_evaluation
from chextriev.study_table import KIND as STUDY_KIND
from chextriev.study_table import STUDY_FILE, write_study_parquet
from tests.export.tiny_bundle import TinyBundle

DASH, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"


@pytest.fixture(scope="module")
def comparison(content):
    scored = [replace(evaluation.scored, name=label) for label, evaluation in reversed(content.rows)]
    return compare(scored, SignificanceSettings(draws=200))


@pytest.fixture(scope="module")
def folder(made_up, pictures, tmp_path_factory):
    """A study of lungs and trachea, left out of made-up region vectors."""
    regions = np.random.default_rng(4).normal(size=(90, 18, 12)).astype(np.float32)
    out = tmp_path_factory.mktemp("occlusion") / "study"
    settings = OcclusionSettings(interval=IntervalSpec(draws=50), groups=("lungs", "trachea"))
    occlude_vectors(replace(made_up, region_vectors=regions), pictures, out, settings)
    return out


@pytest.fixture(scope="module")
def study(folder):
    return read_occlusion(folder)


def test_groups_of_queries_stand_beside_each_other_with_their_chance(content):
    section = all_sections(content)[0]
    assert section.title == "Groups of queries: precision@5"
    held = [evaluation.strata for _, evaluation in content.rows]
    assert [table.header[0] for table in section.tables] == list(held[0].strata)
    told = {(table.header[0], row[0]): row for table in section.tables for row in table.rows}
    shown = withheld = 0
    for stratum, groups in held[0].strata.items():
        for name, group in groups.items():
            row = told[stratum, name]
            if not group.at_k:
                withheld += 1
                assert row[1:] == (group.size, *[DASH] * 5)
                continue
            shown += 1
            for cell, strata in zip(row[4:6], held, strict=True):
                scores = strata.strata[stratum][name].at_k[5]
                low, high = scores.interval["precision"]
                assert cell == f"{scores.measured['precision']:.3f} ({low:.3f}{DASH}{high:.3f})"
            assert row[6] == f"{group.at_k[5].chance['precision']:.3f}"
    assert shown > 3
    assert withheld > 0


def test_the_view_alone_stands_between_the_systems_and_chance(content):
    section = all_sections(content)[1]
    (table,) = section.tables
    assert table.header == ("metric", "v6", "frozen features", "by view alone", "chance")
    baseline = content.rows[0][1].view_baseline
    for metric, row in zip(METRIC_NAMES, table.rows, strict=True):
        expected = (baseline.system[5][metric], baseline.view_only[5][metric], baseline.chance[5][metric])
        assert (row[1], *row[3:]) == tuple(f"{value:.3f}" for value in expected)


def test_evaluations_without_groups_or_views_have_no_such_sections(content):
    rows = [(label, replace(each, strata=None, view_baseline=None)) for label, each in content.rows]
    assert all_sections(replace(content, rows=rows)) == []
    assert "Groups of queries" not in render_report(replace(content, rows=rows, cases=()))


def test_a_comparison_says_effect_interval_and_verdict(content, comparison):
    section = comparison_section(comparison, Shown(5, "precision"))
    (pair,) = comparison.pairs
    (table,) = section.tables
    assert table.header == ("finding", "difference", "interval", "p", "p, Holm", "v6", "frozen features")
    rows = {row[0]: row for row in table.rows}
    cell = pair.cell("macro", "precision", 5)
    assert rows["macro"][1] == f"{cell.effect:+.3f}".replace("-", MINUS)
    assert rows["macro"][5:] == (f"{cell.second:.3f}", f"{cell.first:.3f}")
    assert str(pair.verdict(5)) in section.text
    assert section.data == comparison.as_dict()
    page = render_report(replace(content, cases=(), sections=[section]))
    assert base64.b64encode(section.svg.encode()).decode() in page
    assert "<summary>The numbers as tables</summary>" in page


def test_occlusion_says_what_each_group_does_to_each_finding(content, study):
    section = occlusion_section(study)
    assert [table.caption for table in section.tables] == [
        f"Change of AP@5 over hits, regions hidden in the {side} (interval)" for side in study.sides
    ]
    for table, groups in zip(section.tables, study.sides.values(), strict=True):
        assert table.header == ("hidden", *study.findings, "macro average")
        for row, (group, effects) in zip(table.rows, groups.items(), strict=True):
            assert row[0] == group
            change = effects.macro.changes["ap_over_hits"]
            assert row[-1].startswith(f"{change.change:+.3f}".replace("-", MINUS))
            assert row[-1].endswith(" *") == change.is_clear
            unscored = [name for name, effect in effects.per_finding.items() if not effect.changes]
            assert [name for name, cell in zip(table.header, row, strict=True) if cell == DASH] == unscored
    text = render_report_markdown(replace(content, cases=(), sections=[section]))
    assert "## Which region matters for which finding" in text
    assert "| lungs | " in text


def test_the_twin_holds_the_sections_of_the_page(content, study):
    held = report_as_dict(replace(content, sections=[occlusion_section(study)]))["sections"]
    assert [section["title"] for section in held] == [
        "Groups of queries: precision@5",
        "What the view alone would reach",
        "Which region matters for which finding",
    ]
    assert held[2]["data"] == study.as_dict()
    assert held[2]["svg"].startswith("<svg")


def test_pairs_of_regions_are_drawn_for_each_neighbour(regions: TinyBundle):
    table = regions.table
    ids = table.image_id[:4]
    lists = RankedLists(ids[:1], ids[None, 1:], np.array([[0.9, 0.8, 0.7]], np.float32))
    (case,) = with_region_pairs(read_cases(table, lists, (Choice(0, "any"),)), open_encoder(regions.folder), table)
    drawn = [each.picture_of_similarity for each in case.neighbours]
    assert len(set(drawn)) == 3
    assert all("above other cases" in svg for svg in drawn)
    assert all(re.search(r"the mean of 2 other cases", svg) for svg in drawn)
    alone = RankedLists(ids[:1], ids[None, 1:2], np.array([[0.9]], np.float32))
    (single,) = with_region_pairs(read_cases(table, alone, (Choice(0, "any"),)), open_encoder(regions.folder), table)
    assert "all add up to the cosine" in single.neighbours[0].picture_of_similarity


def test_the_command_adds_significance_and_occlusion(content, folder, tmp_path, capsys):
    for place, (_, evaluation) in enumerate(content.rows):
        write_evaluation(tmp_path / f"e{place}", evaluation)
    words = ["eval", "report", str(tmp_path / "e0"), str(tmp_path / "e1")]
    assert main([*words, str(tmp_path / "all.html"), "--occlusion", str(folder), "--draws", "200"]) == 0
    assert main([*words, str(tmp_path / "less.html"), "--draws", "0"]) == 0
    capsys.readouterr()
    titles = [
        [section["title"] for section in json.loads((tmp_path / name).read_text())["sections"]]
        for name in ("all.json", "less.json")
    ]
    assert titles[0][2:] == ["Whether the systems differ", "Which region matters for which finding"]
    assert titles[1] == titles[0][:2]
    assert "e0 less e1" in (tmp_path / "all.md").read_text()


def test_the_command_refuses_another_encoder_for_the_pairs(content, pictures, ath: TinyBundle, tmp_path, capsys):
    write_evaluation(tmp_path / "e", content.rows[0][1])
    with publishing(tmp_path / "study", STUDY_KIND) as scratch:
        write_study_parquet(pictures, scratch / STUDY_FILE)
        seal(
            scratch,
            STUDY_KIND,
            Recipe({}, {}),
            {"image_root": os.path.relpath(pictures.image_root, tmp_path / "study")},
        )
    words = ["--data", str(tmp_path / "study"), "--bundle", str(ath.folder)]
    assert main(["eval", "report", str(tmp_path / "e"), str(tmp_path / "r.html"), *words]) == EXIT_REFUSED
    said = capsys.readouterr().err
    assert f"OtherEncoder: {ath.folder} is of encoder" in said
    assert "'e' was evaluated with eeee" in said
    assert not (tmp_path / "r.html").exists()


def test_the_command_refuses_a_study_of_another_encoder(content, folder, tmp_path, capsys):
    evaluation = content.rows[0][1]
    write_evaluation(tmp_path / "e", replace(evaluation, parents={**evaluation.parents, "encoder": "f" * 64}))
    words = ["eval", "report", str(tmp_path / "e"), str(tmp_path / "r.html"), "--occlusion", str(folder)]
    assert main(words) == EXIT_REFUSED
    assert "'e' was evaluated with ffff" in capsys.readouterr().err
    assert not (tmp_path / "r.html").exists()
