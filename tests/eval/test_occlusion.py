"""What is hidden, how the change is measured, and what is told of it."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import pytest

from chextriev.anatomy import N_REGIONS, Finding, Region
from chextriev.embedding_set import EmbeddingSet
from chextriev.errors import CountMismatch, InvalidSetting, InvalidValue, UnknownFinding
from chextriev.eval.occlusion import measure_occlusion
from chextriev.eval.occlusion_groups import GROUPS, GroupExtent, HiddenTable, extent_of, hide, mean_boxes
from chextriev.eval.occlusion_picture import draw_occlusion
from chextriev.eval.occlusion_result import SIDES, Effect, OcclusionStudy
from chextriev.eval.occlusion_run import OcclusionSettings
from chextriev.eval.occlusion_table import format_change, render_occlusion
from chextriev.eval.protocol import DEFAULT, MIN_QUERIES, IntervalSpec
from chextriev.eval.run import evaluate
from chextriev.preprocess import integer_corners
from chextriev.radiograph import Radiograph, RegionBoxes
from chextriev.study_table import StudyTable
from tests.tiny import HEIGHT, WIDTH, boxes, make_tiny_table

PROTOCOL = replace(DEFAULT, ks=(5,), interval=IntervalSpec(draws=50))
MINUS = "\N{MINUS SIGN}"


def moved(embeddings: EmbeddingSet, seed: int, size: float = 1.0) -> EmbeddingSet:
    noise = np.random.default_rng(seed).normal(size=embeddings.vectors.shape)
    return replace(embeddings, vectors=(embeddings.vectors + size * noise).astype(np.float32))


def study_of(embeddings: EmbeddingSet, groups: tuple[str, ...] = ("lungs", "trachea")) -> OcclusionStudy:
    hidden = {group: moved(embeddings, seed, 1.0 + seed) for seed, group in enumerate(groups)}
    asked = (embeddings.findings == 1).any(axis=1)
    found, aspect = mean_boxes(make_tiny_table(["test"] * 4))
    return OcclusionStudy(
        method="pixels",
        protocol=PROTOCOL,
        split="test",
        n_queries=int(asked.sum()),
        n_gallery=len(embeddings),
        n_patients=len(set(embeddings.patient_id[asked])),
        sides=measure_occlusion(embeddings, hidden, PROTOCOL, sides=SIDES),
        extents={group: GroupExtent(0.2, 9.0) for group in groups},
        boxes=tuple(tuple(map(float, box)) for box in found),
        aspect=aspect,
        parents={"encoder": "e" * 64},
    )


@pytest.fixture(scope="module")
def study(made_up: EmbeddingSet) -> OcclusionStudy:
    return study_of(made_up)


def test_every_region_is_in_one_of_ten_groups() -> None:
    assert len(GROUPS) == 10
    assert sorted(region for regions in GROUPS.values() for region in regions) == list(Region)
    assert GROUPS["hilar structures"] == (Region.RIGHT_HILAR_STRUCTURES, Region.LEFT_HILAR_STRUCTURES)


def test_what_is_hidden_is_black_and_the_rest_is_as_it_was() -> None:
    corners = boxes().xyxy.copy()
    corners[Region.TRACHEA] = (-9.6, 100.4, 20.5, 400)
    pixels = np.full((HEIGHT, WIDTH), 200, np.uint8)
    radiograph = Radiograph("one", pixels, RegionBoxes(corners))
    hidden = hide(radiograph, (Region.TRACHEA, Region.LEFT_LUNG))
    expected = pixels.copy()
    expected[100:, :21] = 0
    x1, y1, x2, y2 = integer_corners(radiograph.boxes)[Region.LEFT_LUNG]
    expected[y1:y2, x1:x2] = 0
    assert np.array_equal(hidden.pixels, expected)
    assert (radiograph.pixels == 200).all()
    assert hidden.boxes is radiograph.boxes


def test_a_hidden_table_reads_the_same_radiographs_without_the_regions(pictures: StudyTable) -> None:
    hidden = HiddenTable.of(pictures, (Region.TRACHEA,))
    before, after = pictures.radiograph(3), hidden.radiograph(3)
    assert np.array_equal(after.pixels, hide(before, (Region.TRACHEA,)).pixels)
    assert not np.array_equal(after.pixels, before.pixels)
    assert (after.image_id, after.patient_id) == (before.image_id, before.patient_id)


def test_the_extent_of_a_group_counts_what_boxes_share_once() -> None:
    corners = np.array([[300, 300, 310, 310]] * N_REGIONS, np.float32)
    corners[Region.MEDIASTINUM], corners[Region.UPPER_MEDIASTINUM] = (0, 0, 10, 20), (5, 10, 25, 30)
    corners[Region.TRACHEA] = (24, 29, 40, 40)
    table = replace(make_tiny_table(["test"]), boxes_xyxy=corners[np.newaxis])
    extent = extent_of(table, (Region.MEDIASTINUM, Region.UPPER_MEDIASTINUM))
    assert extent.pixels == pytest.approx((10 * 20 + 20 * 20 - 5 * 10) / (WIDTH * HEIGHT))
    assert extent.crops == 3
    assert mean_boxes(table)[0][Region.TRACHEA] == pytest.approx([0.24, 29 / HEIGHT, 0.4, 40 / HEIGHT])


def by_hand(visible: EmbeddingSet, hidden: EmbeddingSet, side: str, finding: Finding) -> dict[str, float]:
    """AP over hits and precision at 5 of one finding, query by query."""
    asked, gallery = (hidden, visible) if side == "query" else (visible, hidden)
    unit = [part.vectors / np.linalg.norm(part.vectors, axis=1, keepdims=True) for part in (asked, gallery)]
    scores = unit[0] @ unit[1].T
    has_it = visible.findings[:, finding] == 1
    precisions, averages = [], []
    for query in np.flatnonzero(has_it):
        others = np.flatnonzero(visible.patient_id != visible.patient_id[query])
        hits = has_it[others[np.argsort(-scores[query, others])[:5]]]
        precisions.append(hits.mean())
        averages.append(np.mean([hits[: rank + 1].mean() for rank in np.flatnonzero(hits)]) if hits.any() else 0.0)
    return {"precision": float(np.mean(precisions)), "ap_over_hits": float(np.mean(averages))}


@pytest.mark.parametrize("side", SIDES)
def test_the_metrics_are_those_of_a_plain_loop(made_up: EmbeddingSet, study: OcclusionStudy, side: str) -> None:
    for finding in (Finding.LUNG_OPACITY, Finding.ATELECTASIS):
        before = by_hand(made_up, made_up, side, finding)
        after = by_hand(made_up, moved(made_up, 1, 2.0), side, finding)
        for measure, change in study.sides[side]["trachea"].per_finding[finding.label].changes.items():
            assert change.visible == pytest.approx(before[measure], abs=1e-9)
            assert change.hidden == pytest.approx(after[measure], abs=1e-9)
            assert change.change == pytest.approx(after[measure] - before[measure], abs=1e-9)
            assert change.interval[0] <= change.interval[1]


def test_with_nothing_hidden_it_is_the_evaluation(made_up: EmbeddingSet, study: OcclusionStudy) -> None:
    measured = evaluate(made_up, PROTOCOL).overall.at_k[5].measured
    for finding, n in study.findings.items():
        assert n == measured.per_finding[finding].n
        if n >= MIN_QUERIES:
            assert study.visible(finding, "precision") == pytest.approx(measured.per_finding[finding].precision)
            assert study.visible(finding, "ap_over_hits") == pytest.approx(measured.per_finding[finding].ap_over_hits)
    scored = [study.visible(finding, "precision") for finding, n in study.findings.items() if n >= MIN_QUERIES]
    assert study.visible(None, "precision") == pytest.approx(np.mean(scored))
    assert study.n_scored == len(scored) < len(Finding)


def test_hiding_nothing_changes_nothing(made_up: EmbeddingSet) -> None:
    found = measure_occlusion(made_up, {"lungs": made_up}, PROTOCOL, sides=SIDES)
    for side in SIDES:
        effects = found[side]["lungs"]
        for effect in (*effects.per_finding.values(), effects.macro):
            assert all(change.change == 0 and change.interval == (0, 0) for change in effect.changes.values())


def test_radiographs_are_paired_by_id_and_not_by_position(made_up: EmbeddingSet) -> None:
    hidden = moved(made_up, 5)
    shuffled = hidden.take(np.random.default_rng(0).permutation(len(hidden)))
    found = measure_occlusion(made_up, {"lungs": hidden}, PROTOCOL, sides=SIDES)
    assert measure_occlusion(made_up, {"lungs": shuffled}, PROTOCOL, sides=SIDES) == found
    by_position = replace(shuffled, image_id=made_up.image_id)
    assert measure_occlusion(made_up, {"lungs": by_position}, PROTOCOL, sides=SIDES) != found


def test_losing_what_carries_a_finding_is_a_clear_loss(made_up: EmbeddingSet) -> None:
    finding, rng = Finding.PLEURAL_EFFUSION, np.random.default_rng(1)
    vectors = rng.normal(size=(len(made_up), 12))
    vectors[:, 0] += 20 * (made_up.findings[:, finding] == 1)
    seen = replace(made_up, vectors=vectors.astype(np.float32))
    blind = replace(seen, vectors=np.where(np.arange(12) == 0, 0.0, vectors).astype(np.float32))
    found = measure_occlusion(seen, {"lungs": blind, "trachea": seen}, PROTOCOL, sides=SIDES)
    for side in SIDES:
        lost = found[side]["lungs"].per_finding[finding.label].changes["precision"]
        assert lost.visible > 0.95
        assert lost.change < -0.2
        assert lost.is_clear
        assert not found[side]["trachea"].per_finding[finding.label].changes["precision"].is_clear


def test_too_few_queries_are_named_and_not_scored(study: OcclusionStudy) -> None:
    rare = [name for name, n in study.findings.items() if n < MIN_QUERIES]
    assert Finding.PNEUMOTHORAX.label in rare
    effects = study.sides["query"]["lungs"].per_finding
    assert effects[rare[0]] == Effect(study.findings[rare[0]])
    text = render_occlusion(study)
    told = ", ".join(f"{name} ({study.findings[name]})" for name in rare)
    assert f"not scored, fewer than {MIN_QUERIES} queries: {told}" in text
    assert draw_occlusion(study).count("not scored") == len(rare) * len(SIDES)


def test_the_study_reads_back_from_json(study: OcclusionStudy) -> None:
    text = json.dumps(study.as_dict(), allow_nan=False)
    assert OcclusionStudy.from_dict(json.loads(text)) == study


def test_the_table_has_a_row_a_group_under_what_nothing_hidden_gives(study: OcclusionStudy) -> None:
    text = render_occlusion(study)
    assert "paired by image id; the published code pairs them by position" in text
    assert "every crop that overlaps" in text
    for side in SIDES:
        section = text.split(f"## Hidden in the {side}")[1].split("## ")[0]
        rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")]
        assert [row[0] for row in rows if row[0] in GROUPS] == ["lungs", "trachea"] * 3
        change = study.sides[side]["lungs"].macro.changes["precision"]
        assert rows[3][-1].startswith(f"{change.hidden:.3f} ({format_change(change.change)}, ")


@pytest.mark.parametrize(
    ("change", "text"), [(-0.0214, MINUS + "0.021"), (0.3, "+0.300"), (-0.0001, "0.000"), (0, "0.000")]
)
def test_changes_carry_their_sign(change: float, text: str) -> None:
    assert format_change(change) == text


def test_the_picture_paints_losses_and_gains_apart(made_up: EmbeddingSet, study: OcclusionStudy) -> None:
    root = ElementTree.fromstring(draw_occlusion(study, measure="precision"))
    svg = "{http://www.w3.org/2000/svg}"
    cells = {}
    for group in root.iter(f"{svg}g"):
        title, marks = group.find(f"{svg}title"), group.findall(f"{svg}rect")
        if title is not None and group.find(f"{svg}text") is not None:
            cells[str(title.text)] = [str(mark.get("fill")) for mark in marks]
    assert len(cells) == len(SIDES) * 2 * (study.n_scored + 1)
    effects = study.sides["gallery"]["trachea"].per_finding
    changes = {name: effect.changes["precision"].change for name, effect in effects.items() if effect.changes}
    lost = min(changes, key=lambda name: changes[name])
    fills = next(value for key, value in cells.items() if key.startswith(f"trachea hidden, {lost}:"))
    red, _, blue = bytes.fromhex(fills[0][1:])
    assert changes[lost] < 0
    assert blue > red
    assert len(fills) == 1
    bold = [mark for mark in root.iter(f"{svg}text") if mark.get("text-decoration") == "underline"]
    clear = [
        effect.changes["precision"].is_clear
        for groups in study.sides.values()
        for found in groups.values()
        for effect in (*found.per_finding.values(), found.macro)
        if effect.changes
    ]
    assert 0 < len(bold) == sum(clear) < len(clear)
    hatched = [key for key, value in cells.items() if len(value) == 2]
    assert all(": +" in key for key in hatched)


def test_pictures_can_share_a_page_and_show_one_finding(study: OcclusionStudy) -> None:
    first, second = (draw_occlusion(study, name=name, finding="atelectasis") for name in ("a", "b"))
    ids = [{element.get("id") for element in ElementTree.fromstring(text).iter()} - {None} for text in (first, second)]
    assert not ids[0] & ids[1]
    assert "Where: atelectasis" in first
    assert "image-0" not in first


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda s: draw_occlusion(s, measure="rr"), InvalidSetting, "no change of 'rr'"),
        (lambda s: draw_occlusion(s, finding="hernia"), UnknownFinding, "no finding 'hernia'"),
        (lambda s: draw_occlusion(s, finding="pneumothorax"), InvalidSetting, "was not scored; at least 20"),
        (lambda s: replace(s, method="crops"), InvalidSetting, "choose one of pixels, vectors"),
        (lambda s: replace(s, boxes=s.boxes[:3]), CountMismatch, r"\[3, 4\]; \[18, 4\] is needed"),
        (lambda _: OcclusionSettings(k=0), InvalidSetting, "k is 0"),
        (lambda _: OcclusionSettings(split="tests"), InvalidSetting, "no split 'tests'"),
        (lambda _: OcclusionSettings(groups=("lungs", "lungs")), InvalidSetting, "each once"),
        (lambda _: OcclusionSettings(sides=()), InvalidSetting, "occlusion sides: nothing; choose of gallery, query"),
    ],
)
def test_wrong_settings_are_refused_in_words(
    study: OcclusionStudy, call: Callable[[OcclusionStudy], Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        call(study)


def rows(embeddings: EmbeddingSet, count: int) -> npt.NDArray[np.int64]:
    return np.arange(min(count, len(embeddings)))


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (lambda e: (e, e.take(rows(e, 80))), CountMismatch, "lungs hidden: 80 radiographs beside 90 .*, 10 of them"),
        (lambda e: (e, replace(e, vectors=0 * e.vectors)), InvalidValue, "is zero"),
        (lambda e: (e.take(rows(e, 15)), e.take(rows(e, 15))), InvalidValue, "no finding has 20 queries"),
    ],
)
def test_embeddings_that_do_not_fit_are_refused(
    made_up: EmbeddingSet, spoil: Callable[[EmbeddingSet], Any], error: type[Exception], words: str
) -> None:
    visible, hidden = spoil(made_up)
    with pytest.raises(error, match=words):
        measure_occlusion(visible, {"lungs": hidden}, PROTOCOL, sides=SIDES)
