"""Pixels of a phantom: attenuation along the ray, composed of soft tissue, air, bone, findings and devices.

Smooth things are computed on a grid of half the resolution, fine lines at full resolution; film response, noise and
collimation come last. All strengths are attenuations relative to the middle of the chest.
"""

import numpy as np
import numpy.typing as npt
from PIL import ImageDraw

from chextriev.train.phantom.canvas import Canvas, Field, mask, ramp
from chextriev.train.phantom.findings import SIDES, Presentation
from chextriev.train.phantom.layout import SIDE_SIGN, Layout, Points
from chextriev.train.phantom.lesions import lung_density

_LUNG_AIR = 0.66
_TRUNKS = 12  # vessels that leave a hilum


def soft_tissue(canvas: Canvas, rng: np.random.Generator) -> Field:
    """Attenuation of the body without lungs: chest, shoulders, neck, arms, breasts and belly."""
    layout, wall = canvas.layout, canvas.layout.anatomy.wall
    chest = layout.anatomy.half_width + wall
    heights = [-0.6, -0.3, -0.2, -0.1, 0.02, 0.2, 0.45, 0.8, 1.0, 1.6]
    widths = [0.22, 0.2, 0.27, 0.55, 0.85, 0.97, chest + 0.04, chest, chest + 0.3 * wall, chest + 0.8 * wall]
    edge = np.interp(canvas.y, heights, widths).astype(np.float32)
    inside = ramp(edge - canvas.offset, 0.05)
    round_chest = np.sqrt(np.clip(1.02 - (canvas.offset / edge) ** 2, 0, 1))
    body = inside * (0.35 + 0.65 * round_chest) * (1 + 0.8 * wall)
    gap, arm = chest + rng.uniform(0.06, 0.2), rng.uniform(0.12, 0.16) + 0.3 * wall
    distance = np.abs(canvas.offset - gap - arm - 0.10 * canvas.y)
    arms = ramp(arm - distance, 0.06) * ramp(canvas.y - 0.1, 0.2) * 0.55
    belly = 0.16 * ramp(canvas.y - 0.85, 0.35) * inside
    breasts = canvas.twin_blobs((0.33, 0.80), (0.24, 0.20))
    return np.asarray(np.maximum(body + belly, arms) + 0.10 * layout.anatomy.breast * breasts, np.float32)


def bones(canvas: Canvas, rng: np.random.Generator) -> Field:
    """Attenuation of ribs, spine, clavicles, shoulder blades and upper arms."""
    layout = canvas.layout
    spine = ramp(0.075 - canvas.offset, 0.02) * (0.10 + 0.035 * np.cos(2 * np.pi * 12.5 * canvas.y))
    return np.asarray((spine + _ribs(canvas) + _shoulders(canvas, rng)) * layout.anatomy.bone)


def _shoulders(canvas: Canvas, rng: np.random.Generator) -> Field:
    """Clavicles, upper arms, and shoulder blades, which lie over the lungs in a bedside view."""
    layout, bedside = canvas.layout, canvas.layout.pose.view == "AP"
    lift = float(rng.normal(0.03 if bedside else 0.0, 0.02))
    collar = np.array([[0.06, 0.15 - lift], [0.25, 0.10 - lift], [0.42, 0.03 - lift], [0.72, -0.03 - lift]])
    inner = layout.anatomy.half_width - (0.05 if bedside else -0.04) + float(rng.normal(0, 0.03))
    blade = [[inner, 0.1], [inner + 0.02, 0.42], [inner + 0.09, 0.5], [inner + 0.2, 0.1], [inner + 0.1, 0.02]]
    reach = layout.anatomy.half_width + 0.27
    shaft = _thick(np.array([[reach, 0.06], [reach + 0.12, 0.45], [reach + 0.16, 0.9]]), 0.05)
    heads = ramp(0.11 - np.hypot(canvas.offset - reach, canvas.y - 0.04), 0.04)
    flat = mask(layout, *_both(np.array(blade)), *_both(shaft), blur=1.5)
    return np.asarray(
        0.12 * mask(layout, *_both(_thick(collar, 0.022)), blur=0.8) + 0.06 * flat + 0.08 * heads, np.float32
    )


def _both(outline: Points) -> tuple[Points, Points]:
    """An outline and its mirror image."""
    return outline, outline * np.array([-1, 1])


def _ribs(canvas: Canvas) -> Field:
    """Posterior ribs as bright bands with brighter rims, anterior ribs fainter and running the other way."""
    anatomy = canvas.layout.anatomy
    along = np.clip(canvas.offset / anatomy.half_width, 0, 1.1)
    cage = ramp(np.maximum(canvas.depth["right"], canvas.depth["left"]) + 0.03, 0.03)
    cage = cage * ramp(1.12 - canvas.y, 0.2) * ramp(canvas.y + 0.02, 0.05)
    back = (canvas.y - anatomy.rib_slope * (0.45 * along + 0.55 * along**3)) * anatomy.rib_count + anatomy.rib_phase
    front = (canvas.y + 0.36 * along**1.5) * anatomy.rib_count * 0.9 + anatomy.rib_phase
    fade = ramp(along - 0.35, 0.3)
    # Towards the chest wall the ray runs along the rib.
    rim = 1 + 1.2 * (along * along * along) ** 2
    return np.asarray(cage * (0.085 * rim * _band(back) + 0.045 * fade * _band(front)), np.float32)


def _band(phase: Field) -> Field:
    """A band half a period wide whose rims are brighter than its middle."""
    wave = np.cos(2 * np.pi * phase)
    return np.asarray(ramp(wave + 0.1, 0.35) * (1.0 - 0.45 * ramp(wave - 0.45, 0.5)), np.float32)


def _thick(line: Points, radius: float) -> Points:
    """The outline of a line of this half-thickness that runs mainly across or mainly down."""
    run = line[-1] - line[0]
    normal = np.array([-run[1], run[0]]) / np.hypot(*run) * radius
    return np.vstack([line + normal, (line - normal)[::-1]])


def airway(canvas: Canvas) -> Field:
    """Air in the trachea and the main bronchi (to be taken away)."""
    tube = _thick(np.array([[0.0, -0.3], [0.004, 0.15], [0.008, 0.42]]), 0.034)
    bronchi = (_thick(np.array([[0.0, 0.40], end]), 0.02) for end in ([-0.12, 0.52], [0.15, 0.53]))
    return np.asarray(0.15 * mask(canvas.layout, tube, *bronchi, blur=1.2), np.float32)


def draw_vessels(pen: ImageDraw.ImageDraw, layout: Layout, rng: np.random.Generator, *, upper: float) -> None:
    """Draw the vessels that branch from the hila; `upper` thickens those that rise."""
    for side in SIDES:
        for paths, thickness in _vessel_tree(rng, layout.base(side), upper):
            pixels = layout.to_pixels(paths.reshape(-1, 2) * [SIDE_SIGN[side], 1]).reshape(len(paths), -1).tolist()
            widths = np.maximum(1, np.rint(thickness * layout.pose.lung_height)).astype(int).tolist()
            fills = np.clip(18 + 2060 * thickness, 0, 62).astype(int).tolist()
            for path, fill, width in zip(pixels, fills, widths, strict=True):
                pen.line(path, fill=fill, width=width)


def _vessel_tree(
    rng: np.random.Generator, base: float, upper: float
) -> list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
    """Paths [n, 5, 2] in the frame of a lung and thicknesses [n] of the vessels of each of three orders."""
    angle = np.linspace(-1.25, 1.35, _TRUNKS) + rng.normal(0, 0.08, _TRUNKS)
    start = np.array([0.10, 0.49 * base]) + rng.normal(0, 0.025, (_TRUNKS, 2))
    rising = np.where(angle < -0.3, 1.0, 0.4)
    length, thickness = 0.34 + 0.1 * upper * rising, 0.0115 * (1 + upper * rising)
    orders = []
    for _ in range(3):
        bends = angle[:, None] + np.cumsum(rng.normal(0, 0.12, (len(angle), 4)), axis=1)
        steps = np.stack([np.cos(bends), np.sin(bends)], axis=2) * (length / 4)[:, None, None]
        path = np.concatenate([start[:, None], start[:, None] + np.cumsum(steps, axis=1)], axis=1)
        orders.append((path, thickness))
        forks = rng.normal([-0.5, 0.45], 0.12, (len(angle), 2))
        angle = (bends[:, 2:3] + forks).ravel()
        start = np.repeat(path[:, 2], 2, axis=0)
        length, thickness = np.repeat(0.65 * length, 2), np.repeat(0.55 * thickness, 2)
    return orders


def draw_chest(canvas: Canvas, presentation: Presentation, rng: np.random.Generator) -> tuple[Field, Field]:
    """Attenuation on the grid, and the air in the lungs 0..1 that fine lines in them must follow."""
    hidden = (1 - 0.90 * canvas.heart) * (1 - 0.92 * canvas.vessels)
    clear = canvas.lungs["right"] + canvas.lungs["left"]
    density, trapped = lung_density(canvas, presentation, rng)
    hila = canvas.twin_blobs((0.13, 0.48), (0.06, 0.10))
    mottle = 0.05 * canvas.noise(rng, 10) + 0.05 * canvas.noise(rng, 30)
    air = clear * hidden * np.clip(1 - density - 0.22 * hila - mottle + 0.16 * trapped, 0, 1.15)
    tissue = soft_tissue(canvas, rng)
    belly_gas = (
        0.25 * rng.random() * canvas.blob((float(rng.normal(0.28, 0.05)), float(rng.normal(1.06, 0.03))), (0.09, 0.06))
    )
    core = 0.10 * canvas.heart + 0.08 * np.maximum(canvas.vessels, ramp(0.10 - canvas.offset, 0.05))
    total = tissue * (1 - _LUNG_AIR * air - belly_gas) + core + bones(canvas, rng) - airway(canvas)
    return np.asarray(total, np.float32), np.asarray(air * (1 - trapped), np.float32)
