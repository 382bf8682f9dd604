"""How fast a served encoder answers, against the same encoder in this process and at rising load."""

from chextriev.serving.bench.run import bench_serve
from chextriev.serving.bench.settings import ServeBenchSettings

__all__ = ["ServeBenchSettings", "bench_serve"]
