"""Memory and cold start of a served engine, measured in processes of their own."""

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from statistics import median
from typing import Any

from chextriev.bundle import EncoderBundle
from chextriev.export.bench_bundle import Sample

CHILD = "chextriev.export.bench_child"
STEPS = ("imported", "opened", "first embedding")


def measure_process(bundle: EncoderBundle, engine: str, sample: Sample, *, starts: int, encodes: int) -> dict[str, Any]:
    """Start a process `starts` times that opens an engine on the processor and encodes a sample `encodes` times.

    cold_start_s: from before the process begins to its first embedding, imports included; the files are in the
    system's cache. peak_memory_mb: the most memory that the process holds, in 10^6 bytes. Medians.
    """
    words = [str(bundle.directory), engine, str(sample.image), str(sample.boxes_file), str(encodes)]
    runs = [_run(words) for _ in range(starts)]
    return {
        "starts": starts,
        "encodes": encodes,
        "cold_start_s": median(sum(run["steps_s"].values()) for run in runs),
        "steps_s": {step: median(run["steps_s"][step] for run in runs) for step in STEPS},
        "peak_memory_mb": median(run["memory"]["peak"] for run in runs),
        "peak_memory_until_mb": {
            step: median(run["memory"][step] for run in runs) for step in ("opened", "first embedding")
        },
        "heavy_imports": runs[0]["heavy_imports"],
    }


def _run(words: list[str]) -> dict[str, Any]:
    begun = time.monotonic()
    done = subprocess.run([sys.executable, "-m", CHILD, *words], stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return {**found, "steps_s": _steps(begun, found["moments"])}


def _steps(begun: float, moments: Mapping[str, float]) -> dict[str, float]:
    """Seconds that each step took."""
    ends = [moments[step] for step in STEPS]
    return {step: end - start for step, start, end in zip(STEPS, [begun, *ends], ends, strict=False)}
