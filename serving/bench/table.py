"""The results as a table of text."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from chextriev.serving.bench.closed import IN_PROCESS, TRANSPORTS

_LATENCIES = ("p50", "p95", "p99")


def table_lines(content: Mapping[str, Any]) -> list[str]:
    """Lines for a person: latency, saturation, load, the wire, and which targets are met."""
    encoder, machine = content["encoder"], content["machine"]
    engine = f"{encoder['system']} on {encoder['backbone']}, {encoder['engine']}"
    return [
        f"{engine}; {machine['cpu']}, {machine['cores']} cores",
        *("", "one radiograph at a time, ms", *_latency(content["latency"])),
        *("", "radiographs/s, as many as can be", *_saturation(content["saturation"])),
        *("", "load that does not wait, ms from when a request was due", *_loads(content)),
        *("", "Triton's perf_analyzer, ms from when a request was sent", *_perf_analyzer(content["perf_analyzer"])),
        *("", "bytes of one radiograph to the server", *_wire(content["wire"])),
        *("", "targets", *_targets(content["targets"])),
    ]


def _latency(latency: Mapping[str, Any]) -> list[str]:
    rows = [
        [query, way, *(_number(ways[way][name]) for name in _LATENCIES), _number(ways[way].get("added_ms"))]
        for query, ways in latency.items()
        for way in (IN_PROCESS, *TRANSPORTS)
    ]
    return _aligned([["file", "way", *_LATENCIES, "added"], *rows])


def _saturation(found: Mapping[str, Any]) -> list[str]:
    rows = [["in process", _number(found["in_process_per_s"], 2), "", _number(found["cpu_ms"][IN_PROCESS])]]
    for many, rate in found["triton_per_s"].items():
        share = _number(rate / found["in_process_per_s"], 2)
        rows.append([f"Triton, {many} on their way", _number(rate, 2), share, _number(found["cpu_ms"][many])])
    return _aligned([["", "per s", "of in process", "processor ms each"], *rows])


def _loads(content: Mapping[str, Any]) -> list[str]:
    rising, long = content["rising_load"], content["long_load"]
    named = [(f"Poisson {load['load']:.0%}", load) for load in rising["poisson"]]
    named.append((f"even {rising['evenly_spaced']['load']:.0%}", rising["evenly_spaced"]))
    named.append((f"Poisson {long['load']:.0%}, {long['minutes']:g} min", long))
    rows = [
        [name, _number(load["offered_per_s"], 2), str(load["requests"]), str(sum(load["errors"].values()))]
        + [_number(load["latency_ms"].get(key)) for key in (*_LATENCIES, "max")]
        + [_number(max((model["queue_ms"] for model in load["server"].values()), default=None))]
        for name, load in named
    ]
    memory = long["memory"]
    return [
        *_aligned([["arrivals", "per s", "requests", "errors", *_LATENCIES, "max", "longest queue"], *rows]),
        f"memory of the server: {memory['start_mb']:.1f} MB, then {memory['end_mb']:.1f} MB",
    ]


def _perf_analyzer(found: Mapping[str, Any]) -> list[str]:
    if not found:
        return ["not measured: no program was given"]
    named = [(f"{many} on their way", measured) for many, measured in found["concurrency"].items()]
    named += [(f"Poisson {load['load']:.0%}", load) for load in found["poisson"]]
    rows = [
        [name, measured["failed"]]
        if "failed" in measured
        else [
            name,
            _number(measured["answered_per_s"], 2),
            *(_number(measured["latency_ms"][key]) for key in _LATENCIES),
        ]
        for name, measured in named
    ]
    return _aligned([["", "per s", *_LATENCIES], *rows])


def _wire(wire: Mapping[str, Any]) -> list[str]:
    queries = [(name, query) for name, query in wire.items() if name != "float_crops"]
    rows = [
        [name, f"{query['width']} x {query['height']}", str(query["quality"])]
        + [f"{query[way]['sent']:,}" for way in ("grpc", "http")]
        + [f"1/{1 / query['grpc']['share_of_float_crops']:.1f}"]
        for name, query in queries
    ]
    head = ["file", "pixels", "quality", "grpc", "http", "of float32 crops"]
    return _aligned([head, *rows, ["float32 crops", "", "", f"{wire['float_crops']:,}"]])


def _targets(found: Mapping[str, Any]) -> list[str]:
    rows = [
        [name, _number(goal["measured"], 3), _number(goal["target"], 3), "met" if goal["met"] else "NOT MET"]
        for name, goal in found.items()
    ]
    return _aligned([["", "measured", "target", ""], *rows])


def _number(value: float | None, digits: int = 1) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows with their columns aligned, the first one to the left; a row may end early."""
    widths = [
        max((len(row[place]) for row in rows if place < len(row)), default=0) for place in range(max(map(len, rows)))
    ]
    return [_line(row, widths) for row in rows]


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    def cells() -> Iterator[str]:
        for place, (cell, width) in enumerate(zip(row, widths, strict=False)):
            yield cell.ljust(width) if place == 0 else cell.rjust(width)

    return "  " + "  ".join(cells()).rstrip()
