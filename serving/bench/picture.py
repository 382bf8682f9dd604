"""The picture of a served encoder under load: one SVG file that needs nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from typing import Any

from chextriev.pictures import Axis, read_template
from chextriev.serving.bench.subject import QUERY

TEMPLATE = "load.svg.j2"
WIDTH, HEIGHT = 960, 482
QUANTILES = ("p50", "p95", "p99")
_GOAL = 0.85


@dataclass(frozen=True)
class Frame:
    """Of a diagram, in the picture's own pixels."""

    left: int
    top: int
    right: int
    bottom: int


LEFT, RIGHT = Frame(72, 56, 560, 370), Frame(650, 56, 940, 370)


def draw_load(content: Mapping[str, Any]) -> str:
    """The SVG text of what `bench_serve` found: latencies against load, and radiographs/s against concurrency."""
    template = read_template("chextriev.serving.bench", TEMPLATE)
    text: str = template.render(
        width=WIDTH,
        height=HEIGHT,
        left=_latencies(content),
        right=_throughput(content["saturation"]),
        encoder=content["encoder"],
        machine=content["machine"],
        query=content["wire"][QUERY],
        load_s=content["settings"]["load_s"],
        minutes=content["long_load"]["minutes"],
        analyzed=bool(content["perf_analyzer"]),
        saturation=max(content["saturation"]["triton_per_s"].values()),
    )
    return text


def _latencies(content: Mapping[str, Any]) -> dict[str, Any]:
    rising, long = content["rising_load"], content["long_load"]
    analyzed = content["perf_analyzer"].get("poisson", [])
    groups = [
        ("circle", rising["poisson"]),
        ("square", [long]),
        ("triangle", [rising["evenly_spaced"]]),
        ("cross", analyzed),
    ]
    groups = [(shape, [load for load in loads if load.get("latency_ms")]) for shape, loads in groups]
    heights = [load["latency_ms"][name] for _, loads in groups for load in loads for name in QUANTILES]
    across = Axis((0.0, 1.0), (LEFT.left, LEFT.right))
    up = Axis(
        (min(heights, default=1.0) / 1.3, max(heights, default=10.0) * 1.3), (LEFT.bottom, LEFT.top), logarithmic=True
    )
    lines = [_quantile(name, shape, loads, (across, up)) for shape, loads in groups for name in QUANTILES]
    powers = range(floor(log10(up.values[0])), ceil(log10(up.values[1])) + 1)
    return {
        "box": LEFT,
        "x_ticks": across.ticks((0, 0.2, 0.4, 0.6, 0.8, 1), "{:.0%}"),
        "y_ticks": up.ticks((digit * 10.0**power for power in powers for digit in (1, 2, 5)), "{:,.0f}"),
        "across": "offered load, share of saturation",
        "up": "latency in ms (logarithmic)",
        "levels": [],
        "lines": [line for line in lines if line["points"]],
    }


def _quantile(name: str, shape: str, loads: Sequence[Mapping[str, Any]], axes: tuple[Axis, Axis]) -> dict[str, Any]:
    points: list[dict[str, Any]] = [
        {
            "x": axes[0].place(load["load"]),
            "y": axes[1].place(load["latency_ms"][name]),
            "title": f"{load['load']:.0%} {name} {load['latency_ms'][name]:.0f} ms",
        }
        for load in loads
    ]
    joined = shape == "circle"
    label = {"x": points[-1]["x"] + 9, "y": points[-1]["y"] + 4, "anchor": "start"} if joined and points else None
    return {"name": name, "style": name, "shape": shape, "points": points, "joined": joined, "label": label}


def _throughput(found: Mapping[str, Any]) -> dict[str, Any]:
    alone, rates = found["in_process_per_s"], {int(many): rate for many, rate in found["triton_per_s"].items()}
    across = Axis((min(rates) / 1.3, max(max(rates), 2) * 1.3), (RIGHT.left, RIGHT.right), logarithmic=True)
    up = Axis((0.0, 1.15 * max(alone, *rates.values())), (RIGHT.bottom, RIGHT.top))
    points = [
        {"x": across.place(many), "y": up.place(rate), "title": f"{many} on their way: {rate:.2f} radiographs/s"}
        for many, rate in rates.items()
    ]
    step = next(step for step in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 1e9) if up.values[1] / step <= 8)
    return {
        "box": RIGHT,
        "x_ticks": across.ticks(sorted(rates), "{:g}"),
        "y_ticks": up.ticks((count * step for count in range(9)), "{:g}"),
        "across": "requests on their way (closed loop)",
        "up": "radiographs/s",
        "levels": [
            {"name": "in this process", "y": up.place(alone)},
            {"name": f"{_GOAL:g} of it", "y": up.place(_GOAL * alone)},
        ],
        "lines": [
            {"name": "Triton", "style": "p50", "shape": "circle", "points": points, "joined": True, "label": None}
        ],
    }
