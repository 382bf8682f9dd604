"""How long a caller waits: a value, and the clock that it starts for one call."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from chextriev.errors import DeadlineExpired, InvalidSetting


@dataclass(frozen=True)
class Deadline:
    """How long one call may take, in seconds.

    total_s: from the call to its answer, with every retry. The server is told too, so that what has expired leaves its
    queue. connect_s: until the server has said for the first time what it serves. In a stream both count for each
    request.
    """

    total_s: float = 60.0
    connect_s: float = 5.0

    def __post_init__(self) -> None:
        for name, value in (("total_s", self.total_s), ("connect_s", self.connect_s)):
            if not (math.isfinite(value) and value > 0):
                raise InvalidSetting(f"{name} is {value}; a finite number of seconds above 0 is needed")

    def start(self, clock: Callable[[], float] = time.monotonic) -> "Countdown":
        """The time that is left of this deadline from now on."""
        return Countdown(self, clock)


class Countdown:
    """What is left of a deadline; `clock` gives seconds."""

    def __init__(self, deadline: Deadline, clock: Callable[[], float] = time.monotonic) -> None:
        self.deadline, self._clock = deadline, clock
        self._begin = clock()

    def left_s(self) -> float:
        """Seconds left, at least 0."""
        return max(0.0, self._begin + self.deadline.total_s - self._clock())

    def remaining_s(self) -> float:
        """Seconds left for one more request; DeadlineExpired where there are none."""
        left = self.left_s()
        if left <= 0:
            raise DeadlineExpired(
                f"no answer within {self.deadline.total_s:g} s (total_s); give more time, or send less"
            )
        return left

    def connecting_s(self) -> float:
        """Seconds left until the server must have said what it serves; DeadlineExpired where there are none."""
        return min(self.remaining_s(), self.deadline.connect_s)
