"""How each finding fills or empties the lungs.

Every function returns the share of the lung's air that is replaced, on the grid, 0..1. A finding is drawn in the
regions where the presentation says it is.
"""

import numpy as np

from chextriev.anatomy import Finding, Region, Side
from chextriev.train.phantom.canvas import Canvas, Field, ramp
from chextriev.train.phantom.findings import LUNG_PARTS, SIDES, Presentation, region_of
from chextriev.train.phantom.layout import SIDE_SIGN, zone_centre


def lung_density(canvas: Canvas, presentation: Presentation, rng: np.random.Generator) -> tuple[Field, Field]:
    """The share of air replaced by all findings, and the share of each place taken by a pneumothorax."""
    clear = np.ones(canvas.shape, np.float32)
    trapped = np.zeros(canvas.shape, np.float32)
    for side in SIDES:
        lung = region_of(side, "lung")
        for finding, draw in _DRAWERS.items():
            if presentation.has(finding, lung):
                clear *= 1 - np.clip(draw(canvas, presentation, rng, side), 0, 0.97)
        if presentation.own_opacity[lung]:
            clear *= 1 - np.clip(_opacity(canvas, presentation, rng, side), 0, 0.9)
        if presentation.has(Finding.PNEUMOTHORAX, lung):
            trapped = np.maximum(trapped, pneumothorax(canvas, presentation, side))
    return (1 - clear) * (1 - trapped), trapped


def pneumothorax(canvas: Canvas, presentation: Presentation, side: Side) -> Field:
    """Free air between the chest wall and the collapsed lung: apical, basal or along the whole wall."""
    gap = _pleural_gap(canvas, presentation, side)
    return ramp(gap - canvas.depth[side], 0.012) * canvas.lungs[side]


def pleural_line(canvas: Canvas, presentation: Presentation, side: Side) -> Field:
    """The visceral pleura, a thin bright line where the free air ends."""
    gap = _pleural_gap(canvas, presentation, side)
    distance = (gap - canvas.depth[side]) / 0.009
    return np.asarray(np.exp(-(distance**2)) * canvas.lungs[side] * (gap > 0.01), np.float32)


def _pleural_gap(canvas: Canvas, presentation: Presentation, side: Side) -> Field:
    size = 0.10 + 0.10 * float(presentation.severity[Finding.PNEUMOTHORAX])
    height = canvas.y / np.float32(canvas.layout.base(side))
    gap = np.full(canvas.shape, 0.25 * size, np.float32)
    for part, centre, reach in (
        ("apical zone", 0.05, 0.28),
        ("lower lung zone", 0.8, 0.2),
        ("costophrenic angle", 0.98, 0.14),
    ):
        if presentation.has(Finding.PNEUMOTHORAX, region_of(side, part)):
            gap += size * np.exp(-(((height - centre) / reach) ** 2))
    return gap


def _effusion(canvas: Canvas, presentation: Presentation, rng: np.random.Generator, side: Side) -> Field:
    """Fluid with a meniscus that climbs the chest wall; from the costophrenic angle, or up into the lower zone."""
    base, severity = canvas.layout.base(side), float(presentation.severity[Finding.PLEURAL_EFFUSION])
    large = presentation.has(Finding.PLEURAL_EFFUSION, region_of(side, "lower lung zone"))
    level = base - (0.20 + 0.16 * severity if large else 0.05 + 0.07 * severity)
    surface = level - 0.13 * np.exp(-np.maximum(canvas.depth[side], 0) / 0.07) + rng.normal(0, 0.005)
    return np.float32(0.93) * ramp(canvas.y - surface + 0.015, 0.05) * (canvas.depth[side] > -0.5)


def _atelectasis(canvas: Canvas, presentation: Presentation, rng: np.random.Generator, side: Side) -> Field:
    """Plate-like bands, and above the diaphragm sometimes a wedge."""
    density, base = np.zeros(canvas.shape, np.float32), canvas.layout.base(side)
    severity = float(presentation.severity[Finding.ATELECTASIS])
    for region in _parts(presentation, Finding.ATELECTASIS, side):
        centre = _inside(canvas, region, rng)
        for _ in range(2 + (severity > 0.5)):
            tilt = SIDE_SIGN[side] * rng.normal(0.15, 0.25)
            shift = rng.normal(0, 0.05)
            across = canvas.x - centre[0]
            down = canvas.y - min(centre[1], 0.86 * base) - shift - tilt * across
            length = rng.uniform(0.10, 0.18)
            density = np.maximum(
                density, np.exp(-((down / rng.uniform(0.012, 0.022)) ** 2) - np.square(across / length) ** 2)
            )
    return np.asarray((0.40 + 0.30 * severity) * density, np.float32)


def _edema(canvas: Canvas, presentation: Presentation, rng: np.random.Generator, side: Side) -> Field:
    """Haze spreading from the hilum like a wing, with a fine reticular pattern."""
    severity = float(presentation.severity[Finding.PULMONARY_EDEMA])
    base, sign = canvas.layout.base(side), SIDE_SIGN[side]
    density = (0.26 + 0.22 * severity) * canvas.blob((sign * 0.20, 0.52 * base), (0.24, 0.30))
    for part in ("upper lung zone", "mid lung zone", "lower lung zone"):
        if presentation.has(Finding.PULMONARY_EDEMA, region_of(side, part)):
            density += 0.25 * canvas.blob(zone_centre(canvas.layout, region_of(side, part)), (0.24, 0.14))
    return np.asarray(
        density * np.clip(1 + 0.22 * canvas.noise(rng, 56), 0.2, 2) * (canvas.depth[side] > -0.5), np.float32
    )


def _failure(canvas: Canvas, presentation: Presentation, rng: np.random.Generator, side: Side) -> Field:
    """An even haze; the wide heart and the full upper vessels are drawn elsewhere."""
    severity = float(presentation.severity[Finding.HEART_FAILURE])
    base, sign = canvas.layout.base(side), SIDE_SIGN[side]
    haze = canvas.blob((sign * 0.28, 0.62 * base), (0.40, 0.50)) * (1 + 0.12 * canvas.noise(rng, 9))
    return np.asarray((0.33 + 0.15 * severity) * haze * (canvas.depth[side] > -0.5), np.float32)


def _consolidation(canvas: Canvas, presentation: Presentation, rng: np.random.Generator, side: Side) -> Field:
    """A dense patch with an irregular edge."""
    severity = float(presentation.severity[Finding.CONSOLIDATION])
    density = np.zeros(canvas.shape, np.float32)
    for region in _parts(presentation, Finding.CONSOLIDATION, side):
        size = (rng.uniform(0.13, 0.20), rng.uniform(0.10, 0.15))
        hill = canvas.blob(_inside(canvas, region, rng), size) + 0.13 * canvas.noise(rng, 16)
        density = np.maximum(density, ramp(hill - 0.30, 0.25))
    return np.asarray((0.78 + 0.15 * severity) * density * (canvas.depth[side] > -0.5), np.float32)


def _pneumonia(canvas: Canvas, presentation: Presentation, rng: np.random.Generator, side: Side) -> Field:
    """Several fluffy patches that run into each other."""
    severity = float(presentation.severity[Finding.PNEUMONIA])
    density = np.zeros(canvas.shape, np.float32)
    for region in _parts(presentation, Finding.PNEUMONIA, side):
        for _ in range(7):
            x, y = _inside(canvas, region, rng)
            radius = rng.uniform(0.05, 0.085)
            density += canvas.blob((x + float(rng.normal(0, 0.07)), y + float(rng.normal(0, 0.05))), (radius, radius))
    rough = np.clip(1 + 0.3 * canvas.noise(rng, 36), 0.2, 2)
    return np.asarray(
        (0.45 + 0.25 * severity) * np.minimum(density, 1.1) * rough * (canvas.depth[side] > -0.5), np.float32
    )


def _opacity(canvas: Canvas, presentation: Presentation, rng: np.random.Generator, side: Side) -> Field:
    """Faint haze without a pattern."""
    severity = float(presentation.severity[Finding.LUNG_OPACITY])
    density = np.zeros(canvas.shape, np.float32)
    parts = [region_of(side, part) for part in LUNG_PARTS if presentation.own_opacity[region_of(side, part)]]
    for region in parts or [region_of(side, "lung")]:
        density = np.maximum(density, canvas.blob(_inside(canvas, region, rng), (0.15, 0.11)))
    return np.asarray((0.30 + 0.2 * severity) * density * (canvas.depth[side] > -0.5), np.float32)


def _parts(presentation: Presentation, finding: Finding, side: Side) -> list[Region]:
    """The parts of a lung with a finding, or the lung if no part is named."""
    regions = [region_of(side, part) for part in LUNG_PARTS]
    return [region for region in regions if presentation.has(finding, region)] or [region_of(side, "lung")]


def _inside(canvas: Canvas, region: Region, rng: np.random.Generator) -> tuple[float, float]:
    """A place near the middle of a region, off the shadow of the heart."""
    x, y = zone_centre(canvas.layout, region)
    return x + float(rng.normal(0, 0.04)) + (0.03 if x > 0 else -0.03), y + float(rng.normal(0, 0.02))


_DRAWERS = {
    Finding.PLEURAL_EFFUSION: _effusion,
    Finding.ATELECTASIS: _atelectasis,
    Finding.PULMONARY_EDEMA: _edema,
    Finding.HEART_FAILURE: _failure,
    Finding.CONSOLIDATION: _consolidation,
    Finding.PNEUMONIA: _pneumonia,
}
