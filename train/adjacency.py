"""Which regions carry the same findings: the co-occurrence adjacency of V1 and AnaXNet."""

import numpy as np
import numpy.typing as npt

LINK_ABOVE = 0.5
ROUNDING = 1e-12
"""Of a mean of nine ratios in float64: a pair at exactly one half must not be linked by it."""

_ONES = np.array([byte.bit_count() for byte in range(256)], np.uint8)


def cooccurrence_adjacency(region_findings: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    """Link two regions whose findings agree: [18, 18] int8 of 1 and 0, symmetric, diagonal 1.

    region_findings: [N, 18, 9] int8 of the train split; other splits would leak labels, as in the published code.
    Linked where `region_similarity` exceeds 0.5.
    """
    linked = region_similarity(region_findings) > LINK_ABOVE + ROUNDING  # NaN does not
    np.fill_diagonal(linked, True)
    return linked.astype(np.int8)


def region_similarity(region_findings: npt.NDArray[np.int8]) -> npt.NDArray[np.float64]:
    """How alike the findings of two regions are: [18, 18] float64 from 0 to 1, symmetric, of [N, 18, 9] int8.

    Over the images in which either region has a finding: the mean over findings of the two-class Jaccard index, which
    is the average of Jaccard(present) and Jaccard(absent) over the classes that occur, so 1 where neither region ever
    has the finding. NaN where there is no such image. Unknown counts as absent, as in the reference.

    Source: AnaXNet (Agu et al., 2021) as computed by the CheXtriev code.
    """
    present = region_findings == 1
    images = _either(_both(present.any(axis=2)[..., None]))  # [18, 18, 1]
    present_in_both = _both(present)
    present_in_either = _either(present_in_both)
    absent_in_both, absent_in_either = images - present_in_either, images - present_in_both
    index = _ratio(present_in_both, present_in_either) + _ratio(absent_in_both, absent_in_either)
    classes = (present_in_either > 0).astype(np.int64) + (absent_in_either > 0)
    scores: npt.NDArray[np.float64] = (index / np.maximum(classes, 1)).mean(axis=2)
    scores[images[..., 0] == 0] = np.nan
    return scores


def _both(marked: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """[N, 18, F] bool -> [18, 18, F]: in how many images both regions are marked."""
    bits = np.packbits(np.moveaxis(marked, 0, -1), axis=-1)  # [18, F, N / 8] uint8: eight images an operation
    return np.stack([_ONES[region & bits].sum(axis=-1, dtype=np.int64) for region in bits])


def _either(both: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """In how many images at least one region is marked, of the counts [18, 18, F] of both."""
    own = np.diagonal(both).T  # [18, F]
    return own[:, None] + own[None, :] - both


def _ratio(count: npt.NDArray[np.int64], of: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    return np.divide(count, of, out=np.zeros(count.shape), where=of > 0)
