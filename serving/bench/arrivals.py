"""When requests arrive, decided before the first is sent."""

import numpy as np
import numpy.typing as npt

from chextriev.errors import InvalidSetting

Arrivals = npt.NDArray[np.float64]
"""Seconds [n] float64 from the beginning, ascending."""


def poisson(rate_per_s: float, duration_s: float, *, seed: int) -> Arrivals:
    """Arrivals that know nothing of each other: a Poisson process, within the duration."""
    _check(rate_per_s, duration_s)
    rng = np.random.default_rng(seed)
    expected = rate_per_s * duration_s
    gaps = rng.exponential(1 / rate_per_s, int(expected + 10 * np.sqrt(expected) + 10))  # short of it: once in 1e20
    moments = np.cumsum(gaps)
    return moments[moments < duration_s]


def evenly_spaced(rate_per_s: float, duration_s: float) -> Arrivals:
    """One arrival every 1/rate seconds, from 0 on, within the duration."""
    _check(rate_per_s, duration_s)
    return np.arange(int(np.ceil(rate_per_s * duration_s))) / rate_per_s


def _check(rate_per_s: float, duration_s: float) -> None:
    if not (0 < rate_per_s < np.inf and 0 < duration_s < np.inf):
        raise InvalidSetting(f"{rate_per_s} arrivals/s for {duration_s} s; both are finite and above 0")
