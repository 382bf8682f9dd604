"""Which regions carry the same findings: the co-occurrence adjacency of V1 and AnaXNet."""

import numpy as np
import numpy.typing as npt

from chextriev.anatomy import N_REGIONS

LINK_ABOVE = 0.5


def cooccurrence_adjacency(region_findings: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    """Link two regions whose findings agree: [18, 18] int8 of 1 and 0, symmetric, diagonal 1.

    region_findings: [N, 18, 9] int8 of the train split (other splits would leak labels; unknown counts as absent, as
    in the reference). Over the images in which either region has a finding, the similarity is the mean over findings
    of the two-class Jaccard index: the average of Jaccard(present) and Jaccard(absent) over the classes that occur,
    1 where neither region ever has the finding. Linked where it exceeds 0.5.

    Source: AnaXNet (Agu et al., 2021) as computed by the CheXtriev code.
    """
    present = region_findings == 1
    adjacency = np.eye(N_REGIONS, dtype=np.int8)
    for a in range(N_REGIONS):
        for b in range(a):
            either = present[:, a].any(axis=1) | present[:, b].any(axis=1)
            linked = either.any() and _two_class_jaccard(present[either, a], present[either, b]).mean() > LINK_ABOVE
            adjacency[a, b] = adjacency[b, a] = linked
    return adjacency


def _two_class_jaccard(a: npt.NDArray[np.bool_], b: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """[n, 9] bool each -> [9]: Jaccard index averaged over the classes (present, absent) that occur."""
    both = np.stack([(a & b).sum(axis=0), (~a & ~b).sum(axis=0)])
    union = np.stack([(a | b).sum(axis=0), (~a | ~b).sum(axis=0)])
    index = np.divide(both, union, out=np.zeros(both.shape), where=union > 0)
    scores: npt.NDArray[np.float64] = index.sum(axis=0) / (union > 0).sum(axis=0)
    return scores
