"""When a request is sent again: where the server was unavailable, after a random pause, while time is left."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from chextriev.errors import InvalidSetting, ServerUnavailable
from chextriev.serving.client.deadline import Countdown
from chextriev.serving.client.statuses import being_mended

MENDING_S = 15.0
"""A model whose process died is back within about 5 s, more than the tries of the policy last."""


@dataclass(frozen=True)
class RetryPolicy:
    """Pauses with full jitter: before retry n a random part of min(cap_s, first_s * 2^(n-1)), so that the clients of a
    server that comes back do not all call at once.

    tries: of one request, with the first; 1 never retries. While the server loads a model anew, requests are tried for
    MENDING_S, however often. Source: Brooker, "Exponential Backoff And Jitter", 2015.
    """

    tries: int = 4
    first_s: float = 0.1
    cap_s: float = 2.0

    def __post_init__(self) -> None:
        if self.tries < 1 or not all(math.isfinite(value) and value >= 0 for value in (self.first_s, self.cap_s)):
            raise InvalidSetting(f"{self!r}: tries is at least 1, first_s and cap_s are seconds, 0 or more")

    def longest_pause_s(self, failures: int) -> float:
        """The upper bound of the pause after so many failures, 1 or more."""
        return min(self.cap_s, self.first_s * 2.0 ** min(failures - 1, 60))

    def pause_s(self, failures: int, uniform: Callable[[], float] = random.random) -> float:
        """The pause after so many failures; uniform: a random number in 0..1."""
        return uniform() * self.longest_pause_s(failures)


class Tries:
    """What becomes of one request under a policy and a deadline; both clients ask it after each failure."""

    def __init__(self, policy: RetryPolicy, countdown: Countdown) -> None:
        self._policy, self._countdown = policy, countdown
        self._failures = 0
        self._mending_from: float | None = None

    def pause_after(self, error: ServerUnavailable) -> float:
        """Seconds to wait before the next try; raises the error where no try, or no time for one, is left."""
        self._failures += 1
        pause_s = self._policy.pause_s(self._failures)
        if (
            self._failures >= self._policy.tries and not self._waits_for_mending(error)
        ) or pause_s >= self._countdown.left_s():
            raise error
        return pause_s

    def _waits_for_mending(self, error: ServerUnavailable) -> bool:
        if self._policy.tries == 1 or not being_mended(str(error)):
            return False
        left_s = self._countdown.left_s()
        if self._mending_from is None:
            self._mending_from = left_s
        return self._mending_from - left_s < MENDING_S
