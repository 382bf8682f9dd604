"""Text that was burned into the pixels of a radiograph: a flag for a person to look, and no guarantee.

Printers, plate readers and scanners write names, dates and techniques into the picture itself, where removing
attributes leaves them. Found is what looks like a printed line: many strokes side by side, bright or dark, between rows
that are quiet. Not found are lines that are slanted, upright, handwritten, low in contrast, or of one letter, as
side markers are; of two or three, some are found; and nothing is read, so "PORTABLE" is flagged as a name is.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Rows = npt.NDArray[np.intp]

STEP_GREY_LEVELS = 36
"""A stroke's edge: so many grey levels within two pixels, at the scale at which the line is 5 to 30 pixels high."""
_SIDE = 256  # an image is not reduced below this
_CELL = 8  # pixels of a row that are counted together: a byte of np.packbits
_EDGES = 4  # pixels of rising and of falling edges in three cells, about two strokes
_LINE_CELLS, _LINE_ROWS = 3, 2  # least extent of a line among the dense cells
_CANDIDATES = 64  # a picture of noise has thousands; those looked at are spread over it
_HEIGHTS = 5, 36
_BITS = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)


@dataclass(frozen=True)
class BurnedInText:
    """Where there seems to be text: boxes x1, y1, x2, y2 in whole pixels of the image, from above to below."""

    boxes: tuple[tuple[int, int, int, int], ...]

    @property
    def remark(self) -> str:
        """The remark that a radiograph carries; it holds nothing that the text says."""
        n = len(self.boxes)
        places = "1 place in the image looks" if n == 1 else f"{n} places in the image look"
        return f"burned-in text: {places} like printed text; look before you pass it on"


def find_burned_in_text(pixels: Pixels) -> BurnedInText | None:
    """Lines of printed text in an image [height, width] uint8, or None where there seems to be none.

    Looks at the image at full size, then at every second, fourth, eighth pixel, for letters of 5 to some 200 pixels.
    """
    boxes: list[tuple[int, int, int, int]] = []
    reduced, scale = pixels, 1
    while scale == 1 or min(reduced.shape) >= _SIDE:
        for line in _lines(reduced):
            x1, y1, x2, y2 = (corner * scale for corner in line)
            if not any(x1 < right and left < x2 and y1 < low and top < y2 for left, top, right, low in boxes):
                boxes.append((x1, y1, min(x2, pixels.shape[1]), min(y2, pixels.shape[0])))
        reduced, scale = np.ascontiguousarray(reduced[::2, ::2]), 2 * scale
    return BurnedInText(tuple(sorted(boxes, key=lambda box: (box[1], box[0])))) if boxes else None


def _lines(pixels: Pixels) -> Iterator[tuple[int, int, int, int]]:
    """Boxes of the lines whose letters are some 5 to 30 pixels high in this picture."""
    height, width = pixels.shape
    for top, left, bottom, right in _candidates(_dense(pixels)):
        x1, x2 = max(left * _CELL - 2, 0), min((right + 2) * _CELL + 4, width)
        y1, y2 = max(top * 2 - 6, 0), min(bottom * 2 + 6, height)
        crop = pixels[y1:y2, x1:x2].astype(np.int16)
        for signed in (crop, 255 - crop):
            found = _printed_rows(signed)
            if found:
                yield x1, y1 + found[0], x2, y1 + found[1]
                break


def _dense(pixels: Pixels) -> npt.NDArray[np.bool_]:
    """[rows / 2, cells] of every second row: whether three cells from here hold the edges of at least two strokes."""
    rows = pixels[::2]
    before, after = rows[:, :-2], rows[:, 2:]
    higher = np.maximum(before, after)
    counts = [_three(_count(higher - low > STEP_GREY_LEVELS)) for low in (before, after)]
    return np.minimum(*counts) >= _EDGES


def _count(edges: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    return _BITS[np.packbits(edges, axis=1)]


def _three(counts: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return counts[:, :-2] + counts[:, 1:-1] + counts[:, 2:]


def _candidates(dense: npt.NDArray[np.bool_]) -> Iterator[tuple[int, int, int, int]]:
    """Rectangles of dense cells that are long enough for a line: top, left, bottom, right, ends excluded."""
    seeds = dense.copy()
    for step in range(1, _LINE_CELLS):
        seeds[:, :-step] &= dense[:, step:]
    seeds[:, dense.shape[1] - _LINE_CELLS + 1 :] = False
    seeds[:-1] &= seeds[1:]
    left_over = np.argwhere(seeds)
    for _ in range(_CANDIDATES):
        if not len(left_over):
            return
        top, left = left_over[0]
        box = _grown(dense, (int(top), int(left), int(top) + _LINE_ROWS, int(left) + _LINE_CELLS))
        yield box
        y, x = left_over.T
        left_over = left_over[(y < box[0]) | (y >= box[2]) | (x < box[1]) | (x >= box[3])]


def _grown(dense: npt.NDArray[np.bool_], box: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """The rectangle, grown while dense cells touch it."""
    height, width = dense.shape
    top, left, bottom, right = box
    for _ in range(height + width):
        old = top, left, bottom, right
        if top and dense[top - 1, left:right].any():
            top -= 1
        if bottom < height and dense[bottom, left:right].any():
            bottom += 1
        if left and dense[top:bottom, max(left - 2, 0) : left].any():
            left = max(left - 2, 0)
        if right < width and dense[top:bottom, right : right + 2].any():
            right = min(right + 2, width)
        if (top, left, bottom, right) == old:
            break
    return top, left, bottom, right


def _printed_rows(crop: npt.NDArray[np.int16]) -> tuple[int, int] | None:
    """First and last row (excluded) of a line of bright letters: rows of many strokes between two that have few."""
    ink = crop > (int(np.percentile(crop, 40)) + int(crop.max())) // 2
    ink &= _from_left(~ink) & _from_left(~ink[:, ::-1])[:, ::-1]  # what the crop cuts is ground, or another thing
    strokes = (ink[:, 1:] & ~ink[:, :-1]).sum(axis=1)
    for top, bottom in _bands(strokes >= 3):
        quiet = [strokes[max(top - 3, 0) : top], strokes[bottom : bottom + 3]]
        if all(not len(rows) or rows.min() <= 1 for rows in quiet) and _is_print(crop[top:bottom], ink[top:bottom]):
            return top, bottom
    return None


def _from_left(ground: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    return np.logical_or.accumulate(ground, axis=1)


def _bands(busy: npt.NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    ends = np.flatnonzero(np.diff(np.concatenate([[False], busy, [False]])))
    for top, bottom in ends.reshape(-1, 2):
        if _HEIGHTS[0] <= bottom - top <= _HEIGHTS[1]:
            yield int(top), int(bottom)


def _is_print(crop: npt.NDArray[np.int16], ink: npt.NDArray[np.bool_]) -> bool:
    """Whether ink [height, width] has the proportions of at least four printed letters."""
    height = len(ink)
    columns = np.flatnonzero(ink.any(axis=0))
    words = np.split(columns, np.flatnonzero(np.diff(columns) > height) + 1)
    first, *_, last = max(words, key=len)[[0, 0, -1]]  # what lies farther off than a letter is no part of the line
    ink, crop = ink[:, first : last + 1], crop[:, first : last + 1]
    extent = ink.shape[1]
    strokes = float((ink[:, 1:] & ~ink[:, :-1]).sum() + ink[:, 0].sum()) / height
    share = ink.sum() / (height * extent)
    contrast = crop[ink].mean() - crop[~ink].mean() if 0 < share < 1 else 0
    return bool(
        extent >= 3 * height
        and strokes >= 4
        and 0.12 * height <= extent / strokes <= 0.8 * height
        and 0.12 <= share <= 0.65
        and contrast >= 60
    )
