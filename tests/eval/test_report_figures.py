"""The figures of a report: every bar, mark and line where its number says, as words too."""

import json
import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest

from chextriev.errors import InvalidSetting, InvalidValue
from chextriev.eval.evaluation import Measures
from chextriev.eval.protocol import REFERENCE, REFERENCE_SKIP
from chextriev.eval.report import ReportContent, report_as_dict
from chextriev.eval.report_figures import BARS, SHAPES, draw_bench_content, draw_findings, draw_over_k
from chextriev.eval.run import evaluate

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def twin(content):
    return json.loads(json.dumps(report_as_dict(content)))


def titled(svg):
    """The groups of a picture by their title."""
    return {group.findtext(f"{SVG}title"): group for group in ElementTree.fromstring(svg).iter(f"{SVG}g")}


@pytest.mark.parametrize("metric", ["precision", "ndcg"])
def test_bars_end_at_their_values_and_whiskers_at_the_interval(twin, content, metric):
    drawn = titled(draw_findings(twin, k=5, metric=metric))
    for label, evaluation in content.rows:
        at_k = evaluation.overall.at_k[5]
        named = [(name, each, at_k.finding_interval[name]) for name, each in at_k.measured.per_finding.items()]
        for name, measures, bounds in [*named, ("macro average", at_k.measured.macro, at_k.interval)]:
            value, (low, high) = getattr(measures, metric), bounds[metric]
            group = drawn[f"{label}, {name}: {value:.3f} ({low:.3f}\N{EN DASH}{high:.3f})"]
            scale = BARS[1] - BARS[0]
            assert float(group.find(f"{SVG}rect").get("width")) == pytest.approx(scale * value, abs=0.06)
            whisker = next(path for path in group.iter(f"{SVG}path") if path.get("class") == "whisker").get("d")
            assert [float(each) for each in re.match(r"M([\d.]+) [\d.]+H([\d.]+)", whisker).groups()] == pytest.approx(
                [BARS[0] + scale * low, BARS[0] + scale * high], abs=0.06
            )


def test_chance_is_marked_in_each_finding_where_it_is(twin, content):
    drawn = titled(draw_findings(twin, k=3, metric="precision"))
    chance = content.rows[0][1].overall.at_k[3].chance
    for name, expected in [*chance.per_finding.items(), ("macro average", chance.macro)]:
        path = drawn[f"chance, {name}: {expected.precision:.3f}"].findall(f"{SVG}path")[-1]
        place = BARS[0] + (BARS[1] - BARS[0]) * expected.precision
        assert float(re.match(r"M([\d.]+)", path.get("d")).group(1)) == pytest.approx(place, abs=0.06)


@pytest.mark.parametrize(("protocol", "said"), [(None, "no query has it"), (REFERENCE, "no query has it: counts as 0")])
def test_a_finding_without_queries_is_named_as_such(made_up, content, protocol, said):
    findings = made_up.findings.copy()
    findings[:, 5] = 0
    evaluation = evaluate(replace(made_up, findings=findings), *([protocol] if protocol else []))
    twin = report_as_dict(ReportContent("t", "n", [("v6", evaluation)]))
    svg = draw_findings(twin, k=5, metric="precision")
    notes = {
        text.text.strip(): text.find(f"{SVG}tspan").text
        for text in ElementTree.fromstring(svg).iter(f"{SVG}text")
        if text.find(f"{SVG}tspan") is not None
    }
    assert notes["pneumothorax"] == said
    assert notes["lung opacity"].startswith("n = ")
    assert "v6, pneumothorax" not in svg
    assert "pneumothorax: no query;" in ElementTree.fromstring(svg).get("aria-label")


def test_dropped_queries_are_counted_for_each_system(made_up, content):
    noise = np.random.default_rng(1).normal(size=made_up.vectors.shape).astype(np.float32)
    rows = [("a", evaluate(made_up, REFERENCE_SKIP)), ("b", evaluate(replace(made_up, vectors=noise), REFERENCE_SKIP))]
    counts = [evaluation.overall.at_k[3].measured.per_finding["pleural effusion"].n for _, evaluation in rows]
    assert counts[0] != counts[1]
    svg = draw_findings(report_as_dict(ReportContent("t", "n", rows)), k=3, metric="rr")
    assert f"n = {counts[0]} / {counts[1]}" in svg


def test_lines_go_through_the_macro_averages_at_each_k(twin, content):
    svg = draw_over_k(twin, metric="ap_over_min_k_r")
    drawn = titled(svg)
    heights, values = [], []
    for label, evaluation in content.rows:
        for k, at_k in evaluation.overall.at_k.items():
            value, (low, high) = at_k.measured.macro.ap_over_min_k_r, at_k.interval["ap_over_min_k_r"]
            group = drawn[f"{label} at k = {k}: {value:.3f} ({low:.3f}\N{EN DASH}{high:.3f})"]
            bounds = next(path.get("d") for path in group if "bounds" in path.get("class", ""))
            mark = next(path.get("transform") for path in group if "mark" in path.get("class", ""))
            heights += [float(each) for each in re.match(r"M[\d.]+ ([\d.]+)V([\d.]+)", bounds).groups()]
            heights.append(float(mark.removesuffix(")").split()[1]))
            values += [low, high, value]
    for k, at_k in content.rows[0][1].overall.at_k.items():
        chance = at_k.chance.macro.ap_over_min_k_r
        heights.append(
            float(re.match(r"M[\d.]+ ([\d.]+)", drawn[f"chance at k = {k}: {chance:.3f}"][1].get("d")).group(1))
        )
        values.append(chance)
    slope, start = np.polyfit(values, heights, 1)
    assert slope < 0
    assert np.abs(np.polyval((slope, start), values) - heights).max() < 0.12
    assert len(re.findall(r'class="s\d line"', svg)) == 2


def test_one_k_alone_has_marks_and_no_line(made_up):
    protocol = replace(REFERENCE, name="one", ks=(4,))
    svg = draw_over_k(
        report_as_dict(ReportContent("t", "n", [("v6", evaluate(made_up, protocol))])), metric="precision"
    )
    assert "v6 at k = 4" in svg
    assert 'line" d=' not in svg


def test_twelve_systems_differ_in_shape_or_filling_and_colour(content):
    rows = [(f"system {place}", content.rows[0][1]) for place in range(12)]
    svg = draw_over_k(report_as_dict(replace(content, rows=rows, cases=())), metric="precision")
    looks = set(re.findall(r'<path class="(s\d(?: hollow)?)" transform="[^"]+" d="([^"]+)"/>', svg))
    assert len(looks) == 12
    assert len({shape for _, shape in looks}) == len(SHAPES) == len({style[:2] for style, _ in looks})


def test_names_are_escaped_and_pictures_are_told_in_words(content):
    rows = [("a <b> & c", content.rows[0][1])]
    twin = report_as_dict(replace(content, rows=rows, cases=()))
    for svg in (draw_findings(twin, k=5, metric="rr"), draw_over_k(twin, metric="rr")):
        told = ElementTree.fromstring(svg).get("aria-label")
        assert "a <b> & c" in told
        assert "chance" in told
        assert " id=" not in svg


def test_styles_reach_nothing_but_the_figures(twin):
    style = ElementTree.fromstring(draw_over_k(twin, metric="rr")).findtext(f"{SVG}style")
    selectors = [rule.split("{")[0] for rule in style.split("}") if rule.strip()]
    assert len(selectors) > 10
    assert all(selector.strip().startswith(".chextriev-figure") for selector in selectors)


def test_what_was_not_measured_is_refused(twin):
    with pytest.raises(InvalidSetting, match="no metric 'recall'"):
        draw_over_k(twin, metric="recall")
    with pytest.raises(InvalidSetting, match="k = 4 was not evaluated; choose one of 3, 5, 10"):
        draw_findings(twin, k=4, metric="rr")
    for wrong in ({}, {"cases": []}, {"cases": [{"n": 3}], "settings": {}, "machine": {}}):
        with pytest.raises(InvalidValue, match="not a measurement of an index"):
            draw_bench_content(wrong)


def test_the_scale_ends_above_the_greatest_value(content):
    few = []
    for label, evaluation in content.rows:
        at_k = {}
        for k, each in evaluation.overall.at_k.items():
            shrunk = {name: _tenth(measures) for name, measures in each.measured.per_finding.items()}
            chance = {name: _tenth(measures) for name, measures in each.chance.per_finding.items()}
            at_k[k] = replace(
                each,
                measured=replace(each.measured, per_finding=shrunk, macro=_tenth(each.measured.macro)),
                chance=replace(each.chance, per_finding=chance, macro=_tenth(each.chance.macro)),
                interval={},
                finding_interval={},
            )
        few.append((label, replace(evaluation, overall=replace(evaluation.overall, at_k=at_k))))
    svg = draw_findings(report_as_dict(replace(content, rows=few, cases=())), k=5, metric="precision")
    ends = [float(rect.get("width")) for rect in ElementTree.fromstring(svg).iter(f"{SVG}rect")]
    assert 0.4 * (BARS[1] - BARS[0]) < max(ends) <= BARS[1] - BARS[0]


def _tenth(measures):
    return Measures(measures.n, *(value / 10 for value in list(vars(measures).values())[1:]))


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_systems_that_are_all_alike_have_a_scale(content, value):
    rows = []
    for label, evaluation in content.rows:
        at_k = {
            k: replace(
                each,
                measured=replace(each.measured, macro=_all(each.measured.macro, value)),
                chance=replace(each.chance, macro=_all(each.chance.macro, value)),
                interval={},
            )
            for k, each in evaluation.overall.at_k.items()
        }
        rows.append((label, replace(evaluation, overall=replace(evaluation.overall, at_k=at_k))))
    svg = draw_over_k(report_as_dict(replace(content, rows=rows, cases=())), metric="precision")
    assert f"{value:.3f}" in svg


def _all(measures, value):
    return Measures(measures.n, *[value] * (len(vars(measures)) - 1))
