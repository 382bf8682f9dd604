"""What a server is meant to reach on the machine that it runs on."""

from collections.abc import Mapping
from typing import Any

from chextriev.serving.bench.closed import TRANSPORTS
from chextriev.serving.bench.subject import QUERY

MEMORY_GROWTH_MB = 8.0
"""What counts as no growth in the long run: what allocators and the system's own counting sway by."""


def targets(content: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Measured, target, and whether it is met, by name; a measurement that is missing is not met."""
    query, long, even = content["latency"][QUERY], content["long_load"], content["rising_load"]["evenly_spaced"]
    loads = [*content["rising_load"]["poisson"], even, long]
    errors = sum(sum(load["errors"].values()) for load in loads) + len(content["server_events"])
    at_least = {"Triton's radiographs/s at saturation, times in process": (_ratio(content), 0.85)}
    at_most = {
        **{f"added latency over {way}, ms": (query[way]["added_ms"], 5.0) for way in TRANSPORTS},
        "bytes of a JPEG query, share of float32 crops": (
            content["wire"][QUERY]["grpc"]["share_of_float_crops"],
            1 / 40,
        ),
        "errors under load, restarts included": (errors, 0),
        f"growth of memory in {long['minutes']:g} minutes, MB": (long["memory"]["growth_mb"], MEMORY_GROWTH_MB),
        "Poisson arrivals at 70%, p99 over p50": (_tail(long), 6.0),
        "evenly spaced arrivals at 80%, p99 over p50": (_tail(even), 2.0),
    }
    return {
        **{name: _judged(value, goal, value is not None and value >= goal) for name, (value, goal) in at_least.items()},
        **{name: _judged(value, goal, value is not None and value <= goal) for name, (value, goal) in at_most.items()},
    }


def _ratio(content: Mapping[str, Any]) -> float:
    return float(content["saturation"]["triton_over_in_process"])


def _tail(load: Mapping[str, Any]) -> float | None:
    latency = load["latency_ms"]
    return latency["p99"] / latency["p50"] if latency else None


def _judged(value: float | None, goal: float, met: bool) -> dict[str, Any]:
    return {"measured": value, "target": goal, "met": met}
