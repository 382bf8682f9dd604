"""Burned-in text is flagged: what share of drawn lines is found, and what is flagged wrongly."""

from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw, ImageFont

from chextriev.burned_in import BurnedInText, find_burned_in_text
from chextriev.train.phantom.cases import sample_patient
from chextriev.train.phantom.exposure import draw_radiograph

Pixels = npt.NDArray[np.uint8]
LINES = ("DOE^JANE 1948-02-17", "MRN 00483921", "St. Mary Hospital", "17.02.2019 10:31")


@cache
def phantoms() -> tuple[Pixels, ...]:
    """One phantom of each of some patients, which has a side marker and maybe wires and tubes."""
    cases = [sample_patient(index, 5)[0] for index in range(24)]
    return tuple(
        draw_radiograph(case.layout, case.presentation, np.random.default_rng([case.pixel_seed, 0])) for case in cases
    )


def write(pixels: Pixels, text: str, *, letters: int, fill: int, top: float = 0.03) -> tuple[Pixels, tuple[int, ...]]:
    """The image with a line of text near its upper left corner, and the box of that line."""
    image = Image.fromarray(pixels)
    pen = ImageDraw.Draw(image)
    font = ImageFont.load_default(letters)
    corner = (int(pixels.shape[1] * 0.04), int(pixels.shape[0] * top))
    box = pen.textbbox(corner, text, font=font)
    if fill == 0:
        pen.rectangle((box[0] - 4, box[1] - 4, box[2] + 4, box[3] + 4), fill=200)
    pen.text(corner, text, fill=fill, font=font)
    return np.asarray(image), tuple(int(side) for side in box)


@pytest.mark.parametrize("fill", [255, 0])
@pytest.mark.parametrize("letters", [10, 12, 16, 24, 40])
def test_most_lines_drawn_on_phantoms_are_found_where_they_are(letters: int, fill: int) -> None:
    found = 0
    for place, pixels in enumerate(phantoms()):
        drawn, box = write(pixels, LINES[place % len(LINES)], letters=letters, fill=fill)
        text = find_burned_in_text(drawn)
        found += text is not None and any(_touch(box, place) for place in text.boxes)
    assert found >= 0.75 * len(phantoms())


@pytest.mark.parametrize("letters", [12, 24, 60, 100])
def test_lines_are_found_on_images_of_a_detectors_size(letters: int) -> None:
    image = np.asarray(Image.fromarray(phantoms()[0]).resize((2500, 3000), Image.Resampling.BICUBIC))
    drawn = [write(image, line, letters=letters, fill=255)[0] for line in LINES]
    assert find_burned_in_text(image) is None
    assert sum(find_burned_in_text(pixels) is not None for pixels in drawn) >= 3


def test_phantoms_with_side_markers_are_not_flagged() -> None:
    assert [place for place, pixels in enumerate(phantoms()) if find_burned_in_text(pixels)] == []


@pytest.mark.parametrize("letters", [20, 30, 40])
@pytest.mark.parametrize("marker", ["R", "L"])
def test_a_side_marker_is_not_flagged(marker: str, letters: int) -> None:
    drawn = [write(pixels, marker, letters=letters, fill=255)[0] for pixels in phantoms()]
    assert not any(find_burned_in_text(pixels) for pixels in drawn)


@pytest.mark.parametrize("shape", [(1, 1), (1, 4000), (4000, 1), (2, 3), (9, 8), (17, 33)])
def test_images_of_any_size_are_looked_at(shape: tuple[int, int]) -> None:
    assert find_burned_in_text(np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)) is None


def test_noise_and_stripes_take_no_more_than_the_rectangles_that_are_looked_at() -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (700, 900)).astype(np.uint8)
    stripes = np.tile(np.uint8([0, 0, 0, 255, 255, 255]), (700, 150))
    assert find_burned_in_text(noise) is None
    assert find_burned_in_text(stripes) is None


def test_the_remark_holds_no_letter_of_the_text() -> None:
    pixels, _ = write(phantoms()[3], LINES[0], letters=24, fill=255)
    text = find_burned_in_text(pixels)
    assert text is not None
    assert text.remark.startswith("burned-in text: 1 place in the image looks like")
    assert BurnedInText(((0, 0, 9, 9), (0, 20, 9, 29))).remark.startswith("burned-in text: 2 places")


@pytest.mark.real
def test_of_the_real_radiographs_those_are_flagged_that_bear_words(real_data: Path) -> None:
    """Of the 42 of 357, 41 bear PORTABLE, SUPINE or SEMI-ERECT, and one a side marker with two initials."""
    images = sorted((real_data / "images").glob("*.jpg"))
    flagged = sum(find_burned_in_text(np.asarray(Image.open(path).convert("L"))) is not None for path in images)
    assert 0.09 <= flagged / len(images) <= 0.14


def _touch(first: tuple[int, ...], second: tuple[int, ...]) -> bool:
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]
