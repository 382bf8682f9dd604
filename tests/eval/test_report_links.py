"""The section of a report that says which regions carry the same findings."""

import re
from dataclasses import replace

import numpy as np
import pytest

from chextriev.anatomy import Region
from chextriev.errors import CountMismatch, InvalidValue
from chextriev.eval.report import render_report


def section(page):
    return re.search(r'<section aria-labelledby="links".*?</section>', page, re.DOTALL).group()


def test_the_picture_of_links_shows_every_pair_of_regions(page, links):
    drawn = re.search(r'<svg class="matrix".*?</svg>', section(page), re.DOTALL).group()
    names = re.findall(r">([^<>]+)</text>", drawn)
    assert sorted(names) == sorted(2 * Region.labels())
    cells = re.findall(r"<g><title>(.*?)</title>(.*?)</g>", drawn, re.DOTALL)
    assert len(cells) == 18 * 18
    for (row, column), (title, marks) in zip(np.ndindex(18, 18), cells, strict=True):
        a, b, linked = Region(row), Region(column), links.adjacency[row, column]
        assert title.startswith(
            a.label if a == b else f"{a.label} \N{EN DASH} {b.label}: {'linked' if linked else 'not linked'}"
        )
        assert ('class="linked"' in marks) == bool(linked and a != b)
    titles = [title for title, _ in cells]
    pair = Region.LEFT_LUNG, Region.LEFT_HILAR_STRUCTURES
    assert titles[18 * pair[0] + pair[1]].endswith(f"linked, similarity {links.similarity[pair]:.2f}")
    unseen = "trachea \N{EN DASH} mediastinum: not linked, no radiograph has a finding in either"
    assert [title for title, marks in cells if 'class="unseen"' in marks][-1] == unseen


def test_the_links_are_told_to_those_who_do_not_see_the_picture(page, links):
    text = section(page)
    rows = re.findall(r'<th scope="row">(.*?)</th><td>(.*?)</td>', text)
    assert [name for name, _ in rows] == list(Region.labels())
    for (_, partners), region in zip(rows, Region, strict=True):
        linked = [other for other in Region if other != region and links.adjacency[region, other]]
        assert partners == ", ".join(other.label for other in linked)
    count = int(np.triu(links.adjacency, 1).sum())
    assert 0 < count < 153
    assert text.count(f"{count} of 153 pairs") == 2


def test_the_links_say_where_they_are_from_and_whether_they_are_used(page, content, links):
    text = " ".join(section(page).split())
    assert "the 12,345 radiographs of the train split alone" in text
    assert "Lacking a finding together counts as much as having it together" in text
    assert "v6, the encoder of this report, does not use these links." in text
    used = render_report(replace(content, links=replace(links, used=True), cases=()))
    assert "v6, the encoder of this report, uses these links." in used


def test_a_report_without_links_has_no_such_section(content):
    assert "carry the same findings" not in render_report(replace(content, links=None, cases=()))


def test_a_region_without_links_says_so(content, links):
    alone = replace(links, adjacency=np.eye(18, dtype=np.int8))
    text = section(render_report(replace(content, links=alone, cases=())))
    assert text.count("<td>no other</td>") == 18
    assert "0 of 153 pairs of regions are linked" in text


def test_links_that_are_none_are_refused(links):
    lopsided = links.adjacency.copy()
    lopsided[0, 1] = 1 - lopsided[0, 1]
    for changes, error, said in (
        ({"adjacency": links.adjacency[:9]}, CountMismatch, r"adjacency has shape \[9, 18\]; \[18, 18\] is needed"),
        ({"similarity": links.similarity[:, :9]}, CountMismatch, r"similarity has shape \[18, 9\]"),
        ({"adjacency": lopsided}, InvalidValue, "adjacency differs from its transpose"),
        ({"adjacency": 2 * links.adjacency}, InvalidValue, "other values than 0 and 1"),
        ({"similarity": links.similarity + 1}, InvalidValue, "values outside 0 to 1"),
    ):
        with pytest.raises(error, match=said):
            replace(links, **changes)
