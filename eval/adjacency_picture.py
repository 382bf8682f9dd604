"""The picture of which regions carry the same findings, as the report shows it."""

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from chextriev.anatomy import N_REGIONS, Region
from chextriev.errors import CountMismatch, InvalidValue

CELL, GAP = 20, 6
LEFT, TOP = 164, 158
"""In the picture's own pixels: of a pair, between right, left and midline, and what the names take."""


@dataclass(frozen=True, eq=False)
class RegionLinks:
    """Which regions carry the same findings, computed from the train split.

    similarity: [18, 18] float64 from 0 to 1, NaN where no radiograph has a finding in either region. adjacency:
    [18, 18] int8, 1 where linked, as an encoder that uses it holds it; the diagonal does not count. radiographs: from
    how many it was computed. used: whether the encoder of the report uses it.
    """

    similarity: npt.NDArray[np.float64]
    adjacency: npt.NDArray[np.int8]
    radiographs: int
    used: bool

    def __post_init__(self) -> None:
        for name in ("similarity", "adjacency"):
            matrix = getattr(self, name)
            if matrix.shape != (N_REGIONS, N_REGIONS):
                raise CountMismatch(f"region links: {name} has shape {list(matrix.shape)}; [18, 18] is needed")
            if not np.array_equal(matrix, matrix.T, equal_nan=True):
                raise InvalidValue(f"region links: {name} differs from its transpose; a link has no direction")
        if not np.isin(self.adjacency, (0, 1)).all():
            raise InvalidValue("region links: adjacency holds other values than 0 and 1")
        if ((self.similarity < 0) | (self.similarity > 1)).any():
            raise InvalidValue("region links: similarity holds values outside 0 to 1")

    def describe(self, a: Region, b: Region) -> str:
        """One pair in words."""
        similarity, linked = self.similarity[a, b], "linked" if self.adjacency[a, b] else "not linked"
        told = "no radiograph has a finding in either" if np.isnan(similarity) else f"similarity {similarity:.2f}"
        return f"{a.label} \N{EN DASH} {b.label}: {linked}, {told}"


def draw_links(links: RegionLinks) -> dict[str, Any]:
    """What the template needs: places of cells and names, counts, and the links of each region in words."""
    pairs = list(combinations(Region, 2))
    return {
        "width": _place(N_REGIONS, LEFT),
        "height": _place(N_REGIONS, TOP),
        "names": [_name(region) for region in Region],
        "cells": [_cell(links, a, b) for a in Region for b in Region],
        "n_pairs": len(pairs),
        "n_linked": sum(int(links.adjacency[a, b]) for a, b in pairs),
        "partners": [(region.label, _partners(links, region)) for region in Region],
    }


def _place(region: int, start: int) -> int:
    groups = (Region.LEFT_LUNG, Region.MEDIASTINUM)
    return start + CELL * region + GAP * sum(region >= first for first in groups)


def _name(region: Region) -> dict[str, Any]:
    """The region's name and where the middle of its column and row is."""
    return {"label": region.label, "x": _place(region, LEFT) + CELL // 2, "y": _place(region, TOP) + CELL // 2}


def _cell(links: RegionLinks, a: Region, b: Region) -> dict[str, Any]:
    """Where a pair is, its mark, how dark it is (the square of the similarity: most lie above a half) and its words."""
    place = {"x": _place(b, LEFT), "y": _place(a, TOP)}
    if a == b:
        return {**place, "mark": "own", "shade": 0, "title": a.label}
    similarity, linked = float(links.similarity[a, b]), bool(links.adjacency[a, b])
    unknown = np.isnan(similarity)
    return {
        **place,
        "mark": "linked" if linked else "unseen" if unknown else "apart",
        "shade": 0 if unknown else round(similarity**2, 2),
        "title": links.describe(a, b),
    }


def _partners(links: RegionLinks, region: Region) -> list[str]:
    return [other.label for other in Region if other != region and links.adjacency[region, other]]
