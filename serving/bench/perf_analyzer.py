"""The same server under Triton's own load generator, so that our numbers need not be believed alone.

`get_perf_analyzer.sh FOLDER` fetches the program. A request's latency counts from when it was sent, in its way of
measuring.
"""

import base64
import csv
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from chextriev.errors import MissingDependency
from chextriev.serving.bench.arrivals import Arrivals, poisson
from chextriev.serving.bench.settings import ServeBenchSettings
from chextriev.serving.client import RadiographFile
from chextriev.serving.local_server import LocalServer
from chextriev.serving.wire import BOXES, IMAGE, ensemble_name

_LATENCIES = {"p50": "p50 latency", "p95": "p95 latency", "p99": "p99 latency"}
_ADVICE = "fetch it with serving/bench/get_perf_analyzer.sh FOLDER, and give FOLDER/perf_analyzer"


def check_program(program: Path) -> str:
    """The version of perf_analyzer; MissingDependency where it cannot be run."""
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError) as error:
        raise MissingDependency(
            f"{program} cannot be run as perf_analyzer ({type(error).__name__}); {_ADVICE}"
        ) from None
    return done.stdout.strip()


def measure_perf_analyzer(
    server: LocalServer, file: RadiographFile, saturation_per_s: float, settings: ServeBenchSettings, *, system: str
) -> dict[str, Any]:
    """Throughput and latencies (ms) in a closed loop at each concurrency, and at the Poisson loads of the settings.

    Empty without the program. What fails is stated in place of the numbers. The arrivals are the first half of ours:
    its own Poisson schedule always begins with the same gaps, whose first 16 are 1.8 times as long as they are meant.
    """
    if settings.perf_analyzer is None:
        return {}
    with TemporaryDirectory() as folder:
        inputs = Path(folder) / "inputs.json"
        inputs.write_text(json.dumps(input_data(file)))
        usual = [settings.perf_analyzer, "-m", ensemble_name(system), "-i", "grpc", "-u", server.grpc]
        command = [*map(str, usual), "--async", "--max-threads", "1", "--input-data", str(inputs)]
        count = round(saturation_per_s * settings.load_s / 4)
        closed = {
            str(many): _measure([*command, "--concurrency-range", str(many)], max(2 * many, count))
            for many in settings.concurrency
        }
        opened = []
        for seed, load in enumerate(settings.loads, start=settings.seed):
            arrivals = poisson(load * saturation_per_s, settings.load_s / 2, seed=seed)
            gaps = Path(folder) / "gaps.txt"
            gaps.write_text(gaps_text(arrivals))
            opened.append({"load": load, **_measure([*command, "--request-intervals", str(gaps)], len(arrivals))})
        return {"version": check_program(settings.perf_analyzer), "concurrency": closed, "poisson": opened}


def gaps_text(arrivals: Arrivals) -> str:
    """Arrivals as perf_analyzer reads them: microseconds from each to the next, a line each."""
    return "".join(f"{round(1e6 * gap)}\n" for gap in np.diff(arrivals, prepend=0.0))


def input_data(file: RadiographFile) -> dict[str, Any]:
    """What perf_analyzer sends, in its own JSON form: bytes as Triton lays them out, their length before them."""
    image = len(file.content).to_bytes(4, "little") + file.content
    boxes = {"content": [float(corner) for corner in file.region_boxes.xyxy.ravel()]}
    return {"data": [{IMAGE: {"b64": base64.b64encode(image).decode()}, BOXES: boxes}]}


def read_table(text: str) -> dict[str, Any]:
    """Throughput and latencies of the one measurement that a CSV file of perf_analyzer holds."""
    (row,) = csv.DictReader(text.splitlines())
    latency_ms = {name: float(row[column]) / 1000 for name, column in _LATENCIES.items()}
    return {"answered_per_s": float(row["Inferences/Second"]), "latency_ms": latency_ms}


def _measure(command: Sequence[str], requests: int) -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        table = Path(folder) / "table.csv"
        counted = [*command, "--request-count", str(max(1, requests)), "-f", str(table)]
        done = subprocess.run(counted, capture_output=True, text=True, check=False)
        if done.returncode or not table.exists():
            said = (done.stderr or done.stdout).strip().splitlines()
            return {"requests": requests, "failed": said[-1] if said else f"exit status {done.returncode}"}
        return {"requests": requests, **read_table(table.read_text())}
