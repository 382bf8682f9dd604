"""A similarity splits into region pairs with nothing left over, and the picture shows the strongest."""

import base64
import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from chextriev.anatomy import N_REGIONS, Region
from chextriev.encoder import open_encoder
from chextriev.errors import CountMismatch, InvalidSetting, InvalidValue
from chextriev.eval.region_pairs import WHOLE_IMAGE, RegionPairs, split_cases, split_similarity
from chextriev.eval.region_pairs_picture import draw_pairs
from chextriev.radiograph import Radiograph, RegionBoxes
from tests.export.tiny_bundle import TinyBundle
from tests.tiny import HEIGHT, WIDTH, boxes

SVG = "{http://www.w3.org/2000/svg}"


def vectors(seed: int, count: int = N_REGIONS) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(count, 12)).astype(np.float32)


def cosine(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> float:
    first, second = first.astype(np.float64), second.astype(np.float64)
    return float(first @ second / np.linalg.norm(first) / np.linalg.norm(second))


@pytest.mark.parametrize("count", [N_REGIONS, N_REGIONS + 1])
def test_the_pairs_add_up_to_the_cosine(count: int) -> None:
    query, case = vectors(1, count), vectors(2, count)
    pairs = split_similarity(query, case)
    assert pairs.contributions.shape == (count, count)
    assert pairs.contributions.dtype == np.float64
    assert pairs.similarity == pytest.approx(cosine(query.mean(axis=0), case.mean(axis=0)), abs=1e-6)
    assert pairs.of_query.sum() == pytest.approx(pairs.similarity, abs=1e-12)
    assert pairs.of_case.sum() == pytest.approx(pairs.similarity, abs=1e-12)
    assert (WHOLE_IMAGE in pairs.names) == (count > N_REGIONS)


def test_one_pair_by_hand() -> None:
    query, case = np.zeros((N_REGIONS, 2)), np.zeros((N_REGIONS, 2))
    query[Region.TRACHEA], query[Region.LEFT_LUNG] = (3, 0), (0, 4)
    case[Region.CARDIAC_SILHOUETTE] = (-2, 0)
    pairs = split_similarity(query, case)
    (strongest,) = pairs.strongest(1)
    assert (strongest.query, strongest.case) == ("trachea", "cardiac silhouette")
    assert strongest.contribution == pytest.approx(-3 / 5)
    assert np.count_nonzero(pairs.contributions) == 1


def test_the_strongest_come_first_whatever_their_sign_and_ties_go_to_the_earlier_region() -> None:
    contributions = np.zeros((N_REGIONS, N_REGIONS))
    contributions[5, 2], contributions[3, 3], contributions[1, 9], contributions[1, 4] = 0.5, -0.7, 0.2, 0.2
    found = RegionPairs(Region.labels(), contributions).strongest(4)
    expected = [(3, 3), (5, 2), (1, 4), (1, 9)]
    assert [(pair.query, pair.case) for pair in found] == [(Region(i).label, Region(j).label) for i, j in expected]


def test_a_contrast_adds_up_to_the_difference_of_the_cosines() -> None:
    pairs, *others = (split_similarity(vectors(0), vectors(seed)) for seed in range(1, 5))
    contrast = pairs.above(others)
    mean = np.mean([other.similarity for other in others])
    assert contrast.others == 3
    assert contrast.similarity == pytest.approx(pairs.similarity - mean, abs=1e-12)


def test_an_encoder_is_split_as_it_compares(regions: TinyBundle) -> None:
    encoder, table = open_encoder(regions.folder), regions.table
    query, *cases = (table.radiograph(row) for row in range(4))
    embedded = encoder.encode([query, *cases]).vectors
    split = split_cases(encoder, query, cases)
    assert len(split) == len(cases)
    for pairs, case in zip(split, embedded[1:], strict=True):
        assert pairs.similarity == pytest.approx(cosine(embedded[0], case), abs=1e-6)


def test_an_encoder_of_the_whole_image_has_nothing_to_split(ath: TinyBundle) -> None:
    with pytest.raises(InvalidSetting, match="ath sees the whole image and has no region vectors"):
        split_cases(open_encoder(ath.folder), ath.table.radiograph(0), [ath.table.radiograph(1)])


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: split_similarity(vectors(1, 17), vectors(2, 17)), CountMismatch, r"\[17, 12\] and \[17, 12\]"),
        (lambda: split_similarity(vectors(1), vectors(2, 19)), CountMismatch, r"\[18, width\]"),
        (lambda: split_similarity(vectors(1), vectors(1) * np.nan), InvalidValue, "of the case hold values"),
        (lambda: split_similarity(0 * vectors(1), vectors(1)), InvalidValue, "of the query have a mean of zero"),
        (lambda: split_similarity(vectors(1), vectors(2)).strongest(0), InvalidSetting, "count = 0"),
        (lambda: split_similarity(vectors(1), vectors(2)).above([]), CountMismatch, "at least one other case"),
    ],
)
def test_wrong_input_is_refused_in_words(call: Callable[[], Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()


def radiograph(seed: int) -> Radiograph:
    pixels = np.random.default_rng(seed).integers(0, 255, (HEIGHT, WIDTH), np.uint8)
    return Radiograph("image-with-a-name", pixels, boxes(seed))


def contributions(*entries: tuple[int, int, float]) -> RegionPairs:
    matrix = np.zeros((N_REGIONS + 1, N_REGIONS + 1))
    for query, case, value in entries:
        matrix[query, case] = value
    return RegionPairs((*Region.labels(), WHOLE_IMAGE), matrix)


def test_the_picture_shows_boxes_links_and_names_of_the_strongest_pairs() -> None:
    pairs = contributions((Region.TRACHEA, Region.TRACHEA, 0.4), (Region.LEFT_LUNG, N_REGIONS, -0.2), (0, 1, 0.01))
    text = draw_pairs(pairs, radiograph(1), radiograph(2), count=2)
    root = ElementTree.fromstring(text)
    written = [element.text for element in root.iter(f"{SVG}text")]
    for name in ("trachea", "in both", "left lung", f"with {WHOLE_IMAGE}", "+0.4000", "\N{MINUS SIGN}0.2000"):
        assert name in written
    assert any("2 strongest pairs of 361 add up to +0.2000" in str(line) for line in written)
    links = [path for path in root.iter(f"{SVG}path") if path.get("stroke") != "#fff"]
    assert len(links) == 4
    positive, negative = ({path.get("stroke-dasharray") is not None: path for path in links}[k] for k in (False, True))
    assert float(str(positive.get("stroke-width"))) > float(str(negative.get("stroke-width")))
    assert float(str(positive.get("stroke-opacity"))) > float(str(negative.get("stroke-opacity")))
    titles = [element.text for element in root.iter(f"{SVG}title")]
    assert sorted(titles) == sorted(["trachea", "left lung", "trachea", WHOLE_IMAGE])


def test_the_picture_can_stand_inline_any_number_of_times() -> None:
    text = draw_pairs(split_similarity(vectors(1), vectors(2)), radiograph(1), radiograph(2))
    root = ElementTree.fromstring(text)
    assert not [element for element in root.iter() if element.get("id") or element.tag.endswith("style")]
    assert "image-with-a-name" not in text
    assert "url(" not in text
    for element in root.iter(f"{SVG}image"):
        kind, content = str(element.get("href")).split(",")
        assert kind == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(content))) as image:
            assert (image.format, image.size) == ("JPEG", (WIDTH, HEIGHT))


def test_a_box_past_the_border_is_drawn_inside() -> None:
    corners = boxes().xyxy.copy()
    corners[Region.TRACHEA] = (-50, -50, 400, 400)
    far = replace(radiograph(1), boxes=RegionBoxes(corners))
    root = ElementTree.fromstring(draw_pairs(contributions((17, 17, 1.0)), far, far, count=1))
    width = float(str(root.get("width")))
    for element in root.iter(f"{SVG}rect"):
        assert (
            0
            <= float(element.get("x", "0"))
            <= float(element.get("x", "0")) + float(str(element.get("width")))
            <= width
        )
