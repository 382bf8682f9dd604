"""How fast, true and large each type of index is, and whether the one that is chosen here is the right one."""

from chextriev.index.bench.run import bench_index
from chextriev.index.bench.settings import IndexBenchSettings
from chextriev.index.bench.vectors import Mixture, clustered_vectors

__all__ = ["IndexBenchSettings", "Mixture", "bench_index", "clustered_vectors"]
