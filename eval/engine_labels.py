"""Names beside the points of a picture, none of which covers a mark, a bar or another name."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

RADIUS, GAP = 6, 5
"""Of a mark, and between names."""

CHARACTER, LINE = 7.8, 15.0
"""Room that a bold letter of 12 pixels takes, across and down, in the widest of the usual typefaces."""


@dataclass(frozen=True)
class Box:
    """A place in a picture, in its own pixels, y downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: "Box") -> bool:
        """Whether the two share a place."""
        across = self.left < other.right and other.left < self.right
        return across and self.top < other.bottom and other.top < self.bottom

    def is_in(self, other: "Box") -> bool:
        """Whether it lies within."""
        across = other.left <= self.left and self.right <= other.right
        return across and other.top <= self.top and self.bottom <= other.bottom

    def wider(self, gap: float) -> "Box":
        """With room at either side."""
        return Box(self.left - gap, self.top, self.right + gap, self.bottom)


@dataclass(frozen=True)
class Mark:
    """A point with a name, and a bar through it from `high` down to `low`."""

    name: str
    x: float
    y: float
    high: float
    low: float

    @property
    def boxes(self) -> tuple[Box, Box]:
        """What the mark and its bar cover."""
        mark = Box(self.x - RADIUS, self.y - RADIUS, self.x + RADIUS, self.y + RADIUS)
        return mark, Box(self.x - 4, self.high - 2, self.x + 4, self.low + 2)


@dataclass(frozen=True)
class Label:
    """The middle of a name's base line, and the end of the line that leads to it from its mark, if one does."""

    x: float
    y: float
    end: tuple[float, float] | None


def place_labels(marks: Sequence[Mark], *, inside: Box, kept: Sequence[Box]) -> list[Label]:
    """A place for each name, as near to its mark as may be. kept: where no name may be."""
    taken = [*kept, *(box for mark in marks for box in mark.boxes)]
    labels = []
    for mark in marks:
        box, leader = _choose(mark, taken, inside)
        taken += [box.wider(GAP), *([leader] if leader else [])]
        labels.append(_label(mark, box, leads=leader is not None))
    return labels


def _choose(mark: Mark, taken: Sequence[Box], inside: Box) -> tuple[Box, Box | None]:
    """The first place that is free, and what a line to it covers: if possible nothing else; the nearest if none is."""
    places = list(_places(mark.x, mark.y, CHARACTER * len(mark.name)))
    free = [(box, line) for box, line in places if box.is_in(inside) and not any(box.meets(other) for other in taken)]
    others = [box for box in taken if box not in mark.boxes]
    clear = [(box, line) for box, line in free if not (line and any(line.meets(other) for other in others))]
    return next(iter([*clear, *free, *places]))


def _label(mark: Mark, box: Box, *, leads: bool) -> Label:
    end = min(max(mark.x, box.left), box.right), box.bottom if box.bottom < mark.y else box.top
    middle = (box.left + box.right) / 2
    return Label(round(middle, 1), round(box.bottom - 4, 1), (round(end[0], 1), round(end[1], 1)) if leads else None)


def _places(x: float, y: float, width: float) -> Iterator[tuple[Box, Box | None]]:
    """Boxes of a name around a point, the nearest first: above, below, beside it; then farther off, with what a line
    that leads there takes."""
    height = LINE / 2
    for side in (-1, 1):
        middle = y + side * (RADIUS + 4 + height)
        yield Box(x - width / 2, middle - height, x + width / 2, middle + height), None
    for side in (1, -1):
        centre = x + side * (RADIUS + 5 + width / 2)
        yield Box(centre - width / 2, y - height, centre + width / 2, y + height), None
    for distance in range(10, 240, 10):
        for shift in (0.0, -width / 2, width / 2):
            for side in (-1, 1):
                middle = y + side * (RADIUS + 4 + height + distance)
                low, high = sorted((y, middle))
                box = Box(x + shift - width / 2, middle - height, x + shift + width / 2, middle + height)
                yield box, Box(x - 1, low, x + 1, high)
