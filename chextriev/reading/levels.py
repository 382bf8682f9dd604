"""Grey levels of more than 8 bits, brought to 8."""

from typing import Any

import numpy as np
import numpy.typing as npt

TAILS = 0.001
"""Share of pixels that may lie below and above the range that is spread: dead pixels, markers, burned-in text."""
_SAMPLED = 2_000_000  # pixels are enough to find a range in


def used_range(levels: npt.NDArray[Any]) -> tuple[float, float]:
    """The least and greatest of levels [height, width], without TAILS of the pixels at either end."""
    step = max(1, int((levels.size / _SAMPLED) ** 0.5))
    low, high = np.quantile(levels[::step, ::step], (TAILS, 1 - TAILS), method="nearest")
    if low == high:
        low, high = levels.min(), levels.max()
    return float(low), float(high)


def spread(levels: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint8]:
    """Levels [height, width] uint16 as uint8, their `used_range` on 0..255."""
    low, high = used_range(levels)
    table = np.clip((np.arange(2**16) - low) / (high - low), 0, 1)
    grey: npt.NDArray[np.uint8] = np.rint(255 * table).astype(np.uint8)[levels]
    return grey
