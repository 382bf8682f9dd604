"""What evaluation is meant to reach on a machine of two cores."""

from collections.abc import Iterator, Mapping
from typing import Any

AT_LEAST, AT_MOST = "at least", "at most"
TIMES_FASTER = {"pytrec_eval-terrier": 30.0, "ranx": 100.0}
TIMES_LOOP = 20.0
BOOTSTRAP_S = 3.0
EQUAL = 1e-9


def targets(content: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Asked, measured, and whether it is met, by name; what was not measured is not met."""
    return {
        name: {
            "measured": measured,
            "asked": f"{way} {asked:g}",
            "met": measured is not None and (measured >= asked if way == AT_LEAST else measured <= asked),
        }
        for name, measured, way, asked in _goals(content)
    }


def _goals(content: Mapping[str, Any]) -> Iterator[tuple[str, float | None, str, float]]:
    settings, loop = content["settings"], content["loop"]
    size = f"{settings['lists']:,} lists"
    for name, measured in content["libraries"].items():
        there = "left_out" not in measured
        faster = measured["times_faster"]["call_alone"] if there else None
        apart = max(measured["largest_difference"].values()) if there else None
        yield f"{size}: times {name}, its call alone", faster, AT_LEAST, TIMES_FASTER[name]
        yield f"{size}: largest difference from {name}", apart, AT_MOST, EQUAL
    size = f"{settings['radiographs']:,} x {settings['width']:,}"
    yield f"{size}: times the published loop", loop["times_faster"]["loop"], AT_LEAST, TIMES_LOOP
    yield f"{size}: largest difference from it", loop["largest_difference"], AT_MOST, EQUAL
    size = f"{settings['queries']:,} queries, {settings['draws']:,} draws"
    for way, seconds in content["bootstrap"]["seconds"].items():
        for work, each in seconds.items():
            yield f"{size}, {way.replace('_', ' ')}: {work}, s", each, AT_MOST, BOOTSTRAP_S
