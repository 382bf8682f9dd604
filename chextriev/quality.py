"""Whether an image can be asked about at all: a frontal chest radiograph, upright, air dark, the lungs inside.

Encoders answer whatever they are given, a photograph too. `check_quality` looks at a thumbnail, see
`chextriev.quality_view`, with linear scores, see `chextriev.quality_model`: one for an upright chest with dark air,
taken for the eight ways in which a picture may lie (four turns, each also inverted), and one for each border that says
how far a lung reaches past it. docs/quality.md has what was measured, and what is not known: no lateral view was at
hand (DICOM's own fields name them), and whether left and right are exchanged is seen in about half of the images.
"""

from dataclasses import dataclass
from math import exp
from typing import Literal

import numpy as np
import numpy.typing as npt

from chextriev.anatomy import Region
from chextriev.errors import UnfitRadiograph, UnreadableImage
from chextriev.localizer import Located
from chextriev.quality_model import EDGES, N_DIRECTIONS, QualityModel, shipped_model
from chextriev.quality_view import Frame, View, inverted, look, turned, view_of

Kind = Literal["blank", "stretched", "not a chest", "inverted", "turned", "mirrored", "cropped"]

BLANK_SPREAD = 6.0
"""Grey levels of 255 between the 2nd and 98th percentile; a radiograph squeezed into 16 levels has about twice that."""
WIDEST = 2.5
"""Proportions, width to height or the reverse, of a picture without its frame; detectors and plates have up to 1.3."""
TOUCHING = 0.01
"""A lung's box that ends this near to the border, as a share of the image's side, may have been cut by it."""
NEARLY = 0.7
"""Of the distance from the threshold to the middle chest: as far below it, a picture may be a chest that is cropped."""
CERTAIN = 5.0


@dataclass(frozen=True)
class QualityReason:
    """One thing that is wrong. score: how sure that is, 0.5 (just reported) to 1. text: what it is and what to do."""

    kind: Kind
    score: float
    text: str


@dataclass(frozen=True)
class Quality:
    """score: 1 for an image without fault down to 0; below 0.5 there is a reason, the surest first."""

    score: float
    reasons: tuple[QualityReason, ...] = ()

    @property
    def fit(self) -> bool:
        """Whether nothing speaks against a query with this image."""
        return not self.reasons

    def __str__(self) -> str:
        return "; ".join(reason.text for reason in self.reasons) or "no fault found"


def check_quality(
    pixels: npt.NDArray[np.uint8], *, located: Located | None = None, model: QualityModel | None = None
) -> Quality:
    """Judge an image [height, width] uint8 of any size.

    located: the boxes of this one radiograph, where they are known: a lung whose box ends at the border is then said to
    be cropped on less evidence. Proposals of the mean layout say nothing. model: other parameters than the package's.
    """
    if pixels.ndim != 2 or pixels.dtype != np.uint8 or not pixels.size:
        raise UnreadableImage(f"pixels are {list(pixels.shape)} {pixels.dtype}; [height, width] uint8 is needed")
    chosen = shipped_model() if model is None else model
    frame, grey = look(pixels)
    if frame.spread < BLANK_SPREAD:
        text = f"blank: {frame.spread:.0f} of 255 grey levels are used; export the image again with its window applied"
        return _quality([("blank", _sure(BLANK_SPREAD - frame.spread, BLANK_SPREAD), text)])
    view = view_of(grey, frame)
    scores = chest_scores(view, chosen)
    checks = [_proportions(frame), *_lies(scores, chosen)]
    threshold, scale = chosen.chest_scale
    if scores.argmax() == 0 and scores.max() > threshold - NEARLY * scale:  # a part of a chest is less of a chest
        checks.append(_cropped(view, chosen, _touching(pixels, located)))
    if max(score for _, score, _ in checks) < 0.5:
        checks.append(_mirrored(view, chosen))
    return _quality(checks)


def require_fit(
    pixels: npt.NDArray[np.uint8], *, where: str, located: Located | None = None, model: QualityModel | None = None
) -> Quality:
    """`check_quality`, but UnfitRadiograph where there is a reason; `where` names the image in it."""
    quality = check_quality(pixels, located=located, model=model)
    if not quality.fit:
        raise UnfitRadiograph(f"{where}: {quality}")
    return quality


_Check = tuple[Kind, float, str]


def _quality(checks: list[_Check]) -> Quality:
    ranked = sorted((check for check in checks if check[1] >= 0.5), key=lambda check: -check[1])
    worst = max(score for _, score, _ in checks)
    return Quality(
        round(1 - worst, 3), tuple(QualityReason(kind, round(score, 3), text) for kind, score, text in ranked)
    )


def _sure(beyond: float, scale: float) -> float:
    """0.5 at the threshold, all but 1 at `scale` beyond it and all but 0 as far before."""
    return 1 / (1 + exp(-min(max(CERTAIN * beyond / scale, -50.0), 50.0)))


def _proportions(frame: Frame) -> _Check:
    longer = max(frame.aspect, 1 / frame.aspect)
    sides = f"{longer:.1f} times as {'wide as high' if frame.aspect > 1 else 'high as wide'}"
    text = f"stretched: {sides}; give the image as the detector made it, at most {WIDEST:g} to 1"
    return "stretched", _sure(longer - WIDEST, 1.0), text


def chest_scores(view: View, model: QualityModel) -> npt.NDArray[np.float64]:
    """[2, 4] float64: score of a chest that is turned clockwise by 0 to 3 quarters, first as it is, then inverted."""
    weights = model.chest[:N_DIRECTIONS].reshape(view.directions.shape)
    shown = (view.directions, inverted(view.directions))
    sums = [[(turned(seen, -quarters) * weights).sum() for quarters in range(4)] for seen in shown]
    return np.asarray(np.array(sums) + model.chest[N_DIRECTIONS])


def _lies(scores: npt.NDArray[np.float64], model: QualityModel) -> list[_Check]:
    """How the picture lies, or that it is no chest whichever way it is turned."""
    threshold, scale = (float(value) for value in model.chest_scale)
    negative, quarters = (int(place) for place in np.unravel_index(int(scores.argmax()), scores.shape))
    best, upright = float(scores.max()), float(scores[0, 0])
    none = _sure(threshold - best, scale)
    text = "not a frontal chest radiograph, whichever way it is turned; give a PA or AP image of the chest"
    checks: list[_Check] = [("not a chest", none, text)]
    other = _sure(best - upright - scale / 2, scale) if none < 0.5 else 0.0
    if negative:
        checks.append(("inverted", other, "inverted: air is bright; invert the grey levels"))
    if quarters:
        degrees = 90 * quarters
        way = "" if degrees == 180 else " clockwise"
        back = "180 degrees" if degrees == 180 else f"{360 - degrees} degrees clockwise"
        checks.append(("turned", other, f"turned by {degrees} degrees{way}; turn it by {back}"))
    return checks


def mirror_score(view: View, model: QualityModel) -> float:
    """Above 0 for a heart on the right of the picture, the patient's left."""
    return float(view.directions.ravel() @ model.mirror)


def _mirrored(view: View, model: QualityModel) -> _Check:
    threshold, scale = (float(value) for value in model.mirror_scale)
    text = "left and right seem exchanged: the heart lies on the left of the picture; look at the side marker"
    return "mirrored", _sure(threshold - mirror_score(view, model), scale), text


def past_borders(view: View, model: QualityModel) -> npt.NDArray[np.float64]:
    """[4] float64: how far the lungs reach past left, top, right and bottom, as shares of the picture's sides."""
    return model.edges[:, :-1] @ view.both + model.edges[:, -1]


def _touching(pixels: npt.NDArray[np.uint8], located: Located | None) -> npt.NDArray[np.bool_]:
    """[4] bool: the borders at which a lung's box ends."""
    if located is None:
        return np.zeros(len(EDGES), bool)
    height, width = pixels.shape
    lungs = located.boxes[0].xyxy[[Region.RIGHT_LUNG, Region.LEFT_LUNG]] / np.array([width, height] * 2)
    low, high = lungs[:, :2].min(axis=0), lungs[:, 2:].max(axis=0)
    return np.concatenate([low <= TOUCHING, high >= 1 - TOUCHING])


def _cropped(view: View, model: QualityModel, touching: npt.NDArray[np.bool_]) -> _Check:
    threshold, scale = model.edge_scale.T
    beyond = past_borders(view, model) - np.where(touching, 0.5, 1.0) * threshold
    sure = [_sure(float(far), float(unit)) for far, unit in zip(beyond, scale, strict=True)]
    borders = [name for name, score in zip(EDGES, sure, strict=True) if score >= 0.5]
    text = f"cropped: a lung reaches past the {' and the '.join(borders)} border; give the whole image"
    return "cropped", max(sure), text
