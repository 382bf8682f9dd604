"""What an index is meant to reach on a machine of two cores."""

from collections.abc import Iterator, Mapping
from typing import Any

from chextriev.index.bench.candidates import AUTO

AT_LEAST, AT_MOST = "at least", "at most"
NEAR_BEST = 0.8
Goals = Iterator[tuple[str, float, str, float]]


def targets(content: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Asked, measured, and whether it is met, by name."""
    k, made_up = content["settings"]["k"], [case for case in content["cases"] if case["spread"] is not None]
    most = max((case["n"] for case in made_up), default=0)
    goals = [goal for case in content["cases"] for goal in _near_best(case)]
    goals += [goal for case in made_up if case["n"] == most for goal in _of_the_largest(case, k)]
    if content["large"]:
        large = content["large"]
        goals.append((f"{large['n']:,}: peak memory, GiB", large["peak_mb"] * 1e6 / (1 << 30), AT_MOST, 8.0))
    return {
        name: {
            "measured": measured,
            "asked": f"{way} {asked:g}",
            "met": measured >= asked if way == AT_LEAST else measured <= asked,
        }
        for name, measured, way, asked in goals
    }


def best_others(case: Mapping[str, Any]) -> list[str]:
    """The candidates beside `auto` that reach the asked recall, the fastest first."""
    found = {name: each for name, each in case["candidates"].items() if name != AUTO and each["reaches"]}
    return sorted(found, key=lambda name: -found[name]["queries_per_s"])


def _near_best(case: Mapping[str, Any]) -> Goals:
    auto, best = case["candidates"][AUTO], best_others(case)[0]
    share = auto["queries_per_s"] / case["candidates"][best]["queries_per_s"]
    yield f"{_name(case)}: queries/s of auto, of the best ({best})", share, AT_LEAST, NEAR_BEST


def _of_the_largest(case: Mapping[str, Any], k: int) -> Goals:
    auto, name = case["candidates"][AUTO], _name(case)
    yield f"{name}: ann_recall@{k}", auto[f"ann_recall@{k}"], AT_LEAST, 0.98
    yield f"{name}: queries/s, times exact", auto["ratio_to_flat"], AT_LEAST, 30.0
    yield f"{name}: single query p50, ms", auto["single_p50_ms"], AT_MOST, 0.3
    yield f"{name}: resident, of float32", auto["resident_share_of_float32"], AT_MOST, 0.6
    yield f"{name}: build, s", auto["build_s"], AT_MOST, 60.0


def _name(case: Mapping[str, Any]) -> str:
    return f"{case['n']:,} {case['vectors']}"
