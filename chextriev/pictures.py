"""What the pictures and pages that stages draw have in common: templates of the package, and scales."""

import base64
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.resources import files
from math import log10
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from chextriev.optional import require

JPEG_QUALITY = 82


@dataclass(frozen=True)
class Axis:
    """Values to places in the picture's own pixels. values, places: at both ends."""

    values: tuple[float, float]
    places: tuple[float, float]
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """Where a value is."""
        low, high = self.values
        if self.logarithmic:
            value, low, high = log10(value), log10(low), log10(high)
        return round(self.places[0] + (value - low) / (high - low) * (self.places[1] - self.places[0]), 1)

    def ticks(self, values: Iterable[float], form: str) -> list[tuple[float, str]]:
        """Place and text of those values that lie on the axis."""
        low, high = self.values
        return [(self.place(value), form.format(value)) for value in values if low <= value <= high]


def read_template(package: str, name: str, **filters: Callable[..., str]) -> Any:
    """A Jinja template that lies in a package: what it shows is escaped, and a name it lacks is an error."""
    jinja2 = require("jinja2", extra="eval")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(filters)
    return environment.from_string(files(package).joinpath(name).read_text())


def jpeg_base64(pixels: npt.NDArray[np.uint8], longest: int) -> str:
    """A picture [height, width] uint8, at most `longest` pixels on its long side, as base64 of a JPEG file."""
    image = Image.fromarray(pixels)
    image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return base64.b64encode(stream.getvalue()).decode("ascii")
