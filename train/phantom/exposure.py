"""From attenuation to a picture: fine lines, devices, film response, noise and collimation."""

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from chextriev.anatomy import Finding
from chextriev.train.phantom.canvas import Canvas
from chextriev.train.phantom.drawing import draw_chest, draw_vessels
from chextriev.train.phantom.findings import SIDES, Presentation, region_of
from chextriev.train.phantom.layout import SIDE_SIGN, Layout, Points
from chextriev.train.phantom.lesions import pleural_line

Picture = npt.NDArray[np.float32]  # [height, width] of the radiograph
_LINES = np.float32(0.7 / 255)  # attenuation of one grey level of what is drawn at full resolution
_FILM_STEPS = 2048  # entries of the film curve for each unit of attenuation
# Chance of a device in a bedside (AP) and in an upright (PA) radiograph.
_DEVICES = {
    "leads": (0.55, 0.06),
    "tracheal tube": (0.22, 0.0),
    "central line": (0.35, 0.06),
    "pacemaker": (0.10, 0.08),
    "gastric tube": (0.18, 0.01),
}


def draw_radiograph(layout: Layout, presentation: Presentation, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """One radiograph [height, width] uint8."""
    canvas = Canvas.of(layout)
    attenuation, air = draw_chest(canvas, presentation, rng)
    for side in SIDES:
        if presentation.has(Finding.PNEUMOTHORAX, region_of(side, "lung")):
            attenuation += 0.09 * pleural_line(canvas, presentation, side)
    attenuation *= 1 + 0.03 * canvas.noise(rng, 3)
    size = (layout.pose.width, layout.pose.height)
    whole = np.array(Image.fromarray(attenuation).resize(size, Image.Resampling.BILINEAR))
    aired = Image.fromarray((np.clip(1.3 * air, 0, 1) * 255).astype(np.uint8)).resize(size, Image.Resampling.BILINEAR)
    lines = ImageChops.add(ImageChops.multiply(aired, _lung_lines(layout, presentation, rng)), _devices(layout, rng))
    whole += _LINES * np.asarray(lines.filter(ImageFilter.BoxBlur(1)))
    return _expose(whole, layout, rng)


def _lung_lines(layout: Layout, presentation: Presentation, rng: np.random.Generator) -> Image.Image:
    """Vessels, fuller and rising in failure, and the septal lines of edema."""
    image = Image.new("L", (layout.pose.width, layout.pose.height))
    pen = ImageDraw.Draw(image)
    full = {Finding.HEART_FAILURE: 0.9, Finding.PULMONARY_EDEMA: 0.3}
    upper = max((share for finding, share in full.items() if presentation.has(finding)), default=0.0)
    draw_vessels(pen, layout, rng, upper=upper + float(rng.uniform(0, 0.3)))
    if presentation.has(Finding.PULMONARY_EDEMA):
        _septal_lines(pen, layout, rng)
    return image


def _septal_lines(pen: ImageDraw.ImageDraw, layout: Layout, rng: np.random.Generator) -> None:
    """Short level lines at the lateral bases (Kerley B)."""
    for side in SIDES:
        for y in rng.uniform(0.62, 0.9, 9) * layout.base(side):
            outer = float(layout.lateral_edge(np.array([y]), side)[0]) - 0.015
            line = np.array([[outer, y], [outer - float(rng.uniform(0.04, 0.07)), y + 0.006]])
            _line(pen, layout, line * [SIDE_SIGN[side], 1], fill=44, width=2)


def _devices(layout: Layout, rng: np.random.Generator) -> Image.Image:
    """Leads, tubes, pacemakers and a side marker that bears no letter."""
    image = Image.new("L", (layout.pose.width, layout.pose.height))
    pen = ImageDraw.Draw(image)
    bedside = layout.pose.view == "AP"
    chosen = {name for name, chances in _DEVICES.items() if rng.random() < chances[0 if bedside else 1]}
    if "leads" in chosen:
        for x, y in ((-0.45, 0.12), (0.45, 0.10), (0.50, 0.75), (-0.40, 0.85)):
            _lead(pen, layout, rng, np.array([x, y]) + rng.normal(0, 0.06, 2))
    if "tracheal tube" in chosen:
        _line(pen, layout, np.array([[0.01, -0.5], [0.0, -0.1], [0.005, rng.uniform(0.15, 0.36)]]), fill=110, width=3)
    if "central line" in chosen:
        _line(
            pen,
            layout,
            _curve([(-0.6, -0.06), (-0.3, 0.09), (-0.1, 0.12), (-0.08, 0.3), (-0.08, rng.uniform(0.4, 0.55))]),
            fill=110,
            width=2,
        )
    if "gastric tube" in chosen:
        _line(pen, layout, _curve([(0.0, -0.5), (0.02, 0.1), (0.03, 0.6), (0.06, 0.95), (0.2, 1.15)]), fill=90, width=2)
    if "pacemaker" in chosen:
        _line(
            pen,
            layout,
            _curve([(0.42, 0.12), (0.2, 0.1), (-0.05, 0.2), (-0.08, 0.55), (0.15, 0.85)]),
            fill=130,
            width=2,
        )
        corners = layout.to_pixels(np.array([[0.36, 0.05], [0.52, 0.2]]))
        pen.rounded_rectangle([*corners.min(axis=0), *corners.max(axis=0)], radius=10, fill=230)
    _marker(pen, layout, rng)
    return image


def _lead(pen: ImageDraw.ImageDraw, layout: Layout, rng: np.random.Generator, place: npt.NDArray[np.float64]) -> None:
    """An electrode and its wire to a border of the picture."""
    x, y = layout.to_pixels(place[None])[0]
    radius = 0.016 * layout.pose.lung_height
    pen.ellipse([x - radius, y - radius, x + radius, y + radius], fill=150)
    away = place + np.array([np.sign(place[0]) * 0.7, rng.uniform(-0.2, 0.9)])
    _line(
        pen,
        layout,
        _curve([tuple(place), tuple((place + away) / 2 + rng.normal(0, 0.1, 2)), tuple(away)]),
        fill=80,
        width=2,
    )


def _marker(pen: ImageDraw.ImageDraw, layout: Layout, rng: np.random.Generator) -> None:
    """A plain metal side marker beside a shoulder."""
    x = layout.pose.width * (rng.uniform(0.04, 0.1) if rng.random() < 0.5 else rng.uniform(0.88, 0.94))
    y = layout.pose.height * rng.uniform(0.03, 0.25)
    pen.rectangle([x, y, x + rng.uniform(6, 14), y + rng.uniform(10, 22)], fill=int(rng.integers(120, 255)))


def _line(pen: ImageDraw.ImageDraw, layout: Layout, points: Points, *, fill: int, width: int = 1) -> None:
    pen.line([tuple(point) for point in layout.to_pixels(points)], fill=fill, width=width, joint="curve")


def _curve(corners: list[tuple[float, ...]]) -> Points:
    """A smooth path through corners: a polynomial in the chord length."""
    points = np.array(corners)
    chord = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    steps = np.linspace(0, chord[-1], 40)
    x, y = (np.interp(steps, chord, points[:, axis]) for axis in (0, 1))
    kernel = np.ones(9) / 9
    padded = (np.pad(values, 4, mode="edge") for values in (x, y))
    return np.column_stack([np.convolve(values, kernel, mode="valid") for values in padded])


def _expose(attenuation: Picture, layout: Layout, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Film response with random exposure and contrast, then noise and a collimated border."""
    bedside = layout.pose.view == "AP"
    black = float(rng.normal(0.10, 0.06))
    white = float(rng.normal(1.16, 0.07)) + (0.06 if bedside else 0.0)
    steep = rng.uniform(3.0, 5.0) - (0.5 if bedside else 0.0)
    steps = np.arange(2 * _FILM_STEPS, dtype=np.float32) / _FILM_STEPS  # attenuations 0..2
    light = np.clip((steps - black) / (white - black), 0, 1.2)
    # A logistic film curve: contrast where the lungs are, shoulders at both ends.
    curve = 1 / (1 + np.exp(-steep * (light - float(rng.normal(0.50, 0.05)))))
    curve = (curve - curve[0]) / (curve.max() - curve[0]) * rng.uniform(215, 252)
    picture = np.take(curve, np.clip(attenuation * _FILM_STEPS, 0, 2 * _FILM_STEPS - 1).astype(np.uint16))
    grain = rng.standard_normal(picture.shape, dtype=np.float32)
    grain *= np.float32(rng.uniform(1.5, 6.5))
    grain += picture
    return _collimate(np.clip(grain, 0, 255, out=grain).astype(np.uint8), rng)


def _collimate(levels: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Black borders, in some radiographs."""
    margins = (rng.random(4) < 0.2) * rng.uniform(0, 0.05, 4)
    height, width = levels.shape
    top, bottom, left, right = (margins * [height, height, width, width]).astype(int)
    framed = np.zeros_like(levels)
    framed[top : height - bottom, left : width - right] = levels[top : height - bottom, left : width - right]
    return framed
