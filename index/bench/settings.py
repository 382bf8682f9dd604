"""What `chextriev bench index` measures."""

from dataclasses import dataclass
from pathlib import Path

from chextriev.errors import InvalidSetting
from chextriev.index.bench.vectors import Mixture
from chextriev.index.spec import Goal


@dataclass(frozen=True)
class IndexBenchSettings:
    """Made-up vectors of all sizes and spreads, real ones, and a number too large for a second copy in memory.

    sizes, spreads, width, centres, queries, seed: see `Mixture`. k, recall: what every index must find. repeats: of
    each batch, all indexes in turn; medians count. graph_up_to: vectors up to which a graph (HNSW) is built. vectors:
    a folder that `chextriev embed` wrote, measured too. large: vectors of an index that is built in a process of its
    own from a file, 4 KiB each on disk at a width of 1,024; 0 for none.
    """

    sizes: tuple[int, ...] = (1_000, 20_000, 237_000)
    spreads: tuple[float, ...] = (0.6, 1.0)
    width: int = 1_024
    centres: int = 2_048
    queries: int = 1_000
    k: int = 10
    recall: float = 0.98
    repeats: int = 5
    graph_up_to: int = 1_000_000
    vectors: Path | None = None
    large: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.repeats < 1 or self.large < 0 or self.graph_up_to < 0:
            raise InvalidSetting("bench index: repeats is 1 or more, large and graph_up_to are 0 or more")
        if not self.sizes and self.vectors is None and not self.large:
            raise InvalidSetting("bench index: nothing to measure; give sizes, a folder of vectors, or a large number")
        _ = self.mixtures, self.goal  # which check the rest

    @property
    def mixtures(self) -> list[Mixture]:
        """One for each size and spread."""
        return [self.mixture(n, spread) for n in self.sizes for spread in self.spreads]

    def mixture(self, n: int, spread: float) -> Mixture:
        """Of one size and spread."""
        return Mixture(n, self.width, self.queries, self.centres, spread, self.seed)

    @property
    def goal(self) -> Goal:
        """What `auto` is asked for."""
        return Goal(self.recall, self.k)
