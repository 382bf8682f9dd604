"""What `chextriev bench serve` measures, and for how long."""

from dataclasses import dataclass
from pathlib import Path

from chextriev.bundle import DEFAULT
from chextriev.errors import InvalidSetting


@dataclass(frozen=True)
class ServeBenchSettings:
    """What is measured.

    bundle: None makes one of random weights on `backbone`, which does not change the speed. height, width: of the
    radiograph, in pixels. turns: of each way to the encoder, one radiograph at a time. repeats: of each piece of work
    at saturation, which takes about work_s. concurrency: requests on their way in a closed loop. loads: Poisson
    arrivals, as shares of saturation, for load_s each. minutes: of the long run. perf_analyzer: Triton's program, to
    measure the same with.
    """

    bundle: Path | None = None
    engine: str = DEFAULT
    backbone: str = "efficientnet-lite0"
    height: int = 3000
    width: int = 2500
    turns: int = 20
    repeats: int = 3
    work_s: float = 5.0
    concurrency: tuple[int, ...] = (1, 2, 4, 8, 16)
    loads: tuple[float, ...] = (0.2, 0.4, 0.6, 0.7, 0.8, 0.9)
    load_s: float = 15.0
    minutes: float = 0.5
    perf_analyzer: Path | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.height, self.width, self.turns, self.repeats, *self.concurrency) < 1:
            raise InvalidSetting("bench serve: height, width, turns, repeats and concurrency are at least 1")
        if not (self.concurrency and self.loads and all(0 < load < 1 for load in self.loads)):
            raise InvalidSetting(
                f"bench serve: loads are {self.loads}; shares of saturation between 0 and 1 are needed"
            )
        if not all(0 < seconds < 86_400 for seconds in (self.work_s, self.load_s, 60 * self.minutes)):
            raise InvalidSetting("bench serve: work_s, load_s and minutes are above 0 and less than a day")
