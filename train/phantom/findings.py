"""Which findings a phantom has, and where, at the frequencies of the Chest ImaGenome test split.

Prevalences and co-occurrences are drawn along a chain (heart failure, edema, enlarged heart, consolidation, effusion,
pneumonia, atelectasis, pneumothorax, then the parent opacity). Shares of regions are met exactly by systematic
sampling.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from chextriev.anatomy import N_FINDINGS, N_REGIONS, Finding, Region, Side

SIDES: tuple[Side, Side] = ("right", "left")
LUNG_PARTS = (
    "apical zone",
    "upper lung zone",
    "mid lung zone",
    "lower lung zone",
    "hilar structures",
    "costophrenic angle",
)
CHILDREN_OF_OPACITY = (
    Finding.PLEURAL_EFFUSION,
    Finding.ATELECTASIS,
    Finding.PULMONARY_EDEMA,
    Finding.CONSOLIDATION,
    Finding.HEART_FAILURE,
    Finding.PNEUMONIA,
)
WITHOUT_ANY = 0.075  # patients who are well, beside those whom the chain leaves without a finding
OPACITY_WITH_CHILD, OPACITY_ALONE = 0.965, 0.72
EXTRA_OPACITY = (0.03, 0.08, 0.0, 0.0, 0.16, 0.0)  # in the order of LUNG_PARTS, a lung, beside other findings

# Share of a finding's positive images with it in the right and the left lung.
_LUNGS: dict[Finding, tuple[float, float]] = {
    Finding.LUNG_OPACITY: (0.87, 0.86),
    Finding.PLEURAL_EFFUSION: (0.80, 0.76),
    Finding.ATELECTASIS: (0.70, 0.79),
    Finding.PULMONARY_EDEMA: (0.99, 1.0),
    Finding.PNEUMOTHORAX: (0.78, 0.48),
    Finding.CONSOLIDATION: (0.63, 0.66),
    Finding.HEART_FAILURE: (1.0, 1.0),
    Finding.PNEUMONIA: (0.76, 0.75),
}
# The same for the parts of the lungs, in the order of LUNG_PARTS, right and left.
_PARTS: dict[Finding, tuple[tuple[float, ...], tuple[float, ...]]] = {
    Finding.LUNG_OPACITY: ((0.03, 0.10, 0.19, 0.46, 0.48, 0.41), (0.03, 0.10, 0.20, 0.48, 0.48, 0.39)),
    Finding.PLEURAL_EFFUSION: ((0, 0, 0, 0.24, 0, 0.79), (0, 0, 0, 0.24, 0, 0.75)),
    Finding.ATELECTASIS: ((0, 0, 0.13, 0.55, 0, 0.04), (0, 0, 0.17, 0.65, 0, 0.04)),
    Finding.PULMONARY_EDEMA: ((0, 0.05, 0.08, 0.19, 0.99, 0), (0, 0.05, 0.08, 0.20, 0.99, 0)),
    Finding.PNEUMOTHORAX: ((0.35, 0, 0, 0.23, 0, 0.22), (0.30, 0, 0, 0.05, 0, 0.07)),
    Finding.CONSOLIDATION: ((0, 0.12, 0.28, 0.41, 0, 0), (0, 0.12, 0.33, 0.44, 0, 0)),
    Finding.HEART_FAILURE: ((0, 0, 0, 0.11, 0.18, 0), (0, 0, 0, 0.11, 0.18, 0)),
    Finding.PNEUMONIA: ((0, 0, 0.23, 0.41, 0.10, 0), (0, 0, 0.21, 0.37, 0.10, 0)),
}


@dataclass(frozen=True, eq=False)
class Presentation:
    """The findings of one radiograph.

    regions: [18, 9] int8, 1 where a region has a finding. own_opacity: [18] bool, where opacity is drawn for itself and
    not as the sign of another finding. severity: [9] float32 in 0..1.
    """

    regions: npt.NDArray[np.int8]
    own_opacity: npt.NDArray[np.bool_]
    severity: npt.NDArray[np.float32]

    def has(self, finding: Finding, region: Region | None = None) -> bool:
        """Whether the region, or the image, has the finding."""
        column = self.regions[:, finding]
        return bool(column.any() if region is None else column[region])


def region_of(side: Side, part: str) -> Region:
    """The region called e.g. "right hilar structures"."""
    return Region.from_label(f"{side} {part}")


def sample_presentation(rng: np.random.Generator) -> Presentation:
    """Draw the findings of a radiograph and the regions that they occupy."""
    present = sample_image_findings(rng)
    regions = np.zeros((N_REGIONS, N_FINDINGS), np.int8)
    for finding in sorted(present - {Finding.LUNG_OPACITY, Finding.ENLARGED_CARDIAC_SILHOUETTE}):
        regions[sorted(_place(rng, finding)), finding] = 1
    for finding in present & {Finding.ENLARGED_CARDIAC_SILHOUETTE, Finding.HEART_FAILURE}:
        regions[Region.CARDIAC_SILHOUETTE, finding] = 1
    own = _place_opacity(rng, regions) if Finding.LUNG_OPACITY in present else np.zeros(N_REGIONS, np.bool_)
    if Finding.LUNG_OPACITY in present:
        shown = regions[:, CHILDREN_OF_OPACITY].any(axis=1) | own
        shown[Region.MEDIASTINUM :] = False
        regions[:, Finding.LUNG_OPACITY] = shown
    return Presentation(regions, own, rng.random(N_FINDINGS, dtype=np.float32))


def sample_image_findings(rng: np.random.Generator) -> set[Finding]:
    """The set of findings of one image."""
    u = dict(zip(Finding, rng.random(N_FINDINGS), strict=True))
    present: set[Finding] = set()
    if rng.random() < WITHOUT_ANY:
        return present
    sick = 1 / (1 - WITHOUT_ANY)

    def draw(finding: Finding, probability: float) -> bool:
        if u[finding] < probability:
            present.add(finding)
        return finding in present

    failing = draw(Finding.HEART_FAILURE, 0.053 * sick)
    edema = draw(Finding.PULMONARY_EDEMA, 0.75 if failing else 0.2295 * sick)
    draw(Finding.ENLARGED_CARDIAC_SILHOUETTE, 0.65 if failing else 0.60 if edema else 0.31 * sick)
    dense = draw(Finding.CONSOLIDATION, 0.105 * sick)
    fluid = draw(Finding.PLEURAL_EFFUSION, 0.70 if edema and dense else 0.60 if edema or dense else 0.33 * sick)
    draw(Finding.PNEUMONIA, 0.49 if dense else 0.168 * sick)
    draw(Finding.ATELECTASIS, 0.51 if fluid else 0.32 * sick)
    draw(Finding.PNEUMOTHORAX, 0.030 * sick)
    draw(Finding.LUNG_OPACITY, OPACITY_WITH_CHILD if present & set(CHILDREN_OF_OPACITY) else OPACITY_ALONE)
    return present


def _place(rng: np.random.Generator, finding: Finding) -> set[Region]:
    """The lung regions of a finding: a side at least, and the parts of that lung."""
    chosen: set[Region] = set()
    for index in _systematic(rng, np.array(_LUNGS[finding])):
        side = SIDES[index]
        parts = np.array(_PARTS[finding][index]) / _LUNGS[finding][index]
        chosen.add(region_of(side, "lung"))
        chosen |= {region_of(side, LUNG_PARTS[part]) for part in _systematic(rng, parts)}
    return chosen


def _place_opacity(rng: np.random.Generator, regions: npt.NDArray[np.int8]) -> npt.NDArray[np.bool_]:
    """Where opacity is drawn for itself: anywhere if nothing else explains it, else sometimes high or at the hila."""
    own = np.zeros(N_REGIONS, np.bool_)
    if not regions[:, CHILDREN_OF_OPACITY].any():
        own[sorted(_place(rng, Finding.LUNG_OPACITY))] = True
        return own
    for side in SIDES:
        for part in np.flatnonzero(rng.random(len(LUNG_PARTS)) < EXTRA_OPACITY):
            own[[region_of(side, "lung"), region_of(side, LUNG_PARTS[part])]] = True
    return own


def _systematic(rng: np.random.Generator, shares: npt.NDArray[np.float64]) -> list[int]:
    """Draw indices so that index i comes with probability shares[i] exactly and the number drawn varies least.

    Systematic sampling (Madow, 1949) in random order: shares that sum to one or more give at least one index.
    """
    order = rng.permutation(len(shares))
    ends = np.cumsum(np.minimum(shares[order], 1.0))
    starts = np.concatenate([[0.0], ends[:-1]])
    ticks = rng.random()
    return [int(i) for i in order[np.floor(ends + ticks) > np.floor(starts + ticks)]]
