"""What Triton says of its own work: how long requests waited for each model and ran in it, and in which batches."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chextriev.optional import require

COUNTING_S = 10.0
"""Until Triton must have counted what it has answered."""
_AGAIN_S = 0.01

_TIMES = {"queue_ms": "queue", "input_ms": "compute_input", "run_ms": "compute_infer", "output_ms": "compute_output"}


@dataclass(frozen=True)
class Counts:
    """What a model has done since it was loaded. requests: answered. executions: batches. times_ns: sums."""

    requests: int
    executions: int
    times_ns: Mapping[str, int]


def read_statistics(address: str) -> dict[str, Counts]:
    """Of every model of a server at HOST:PORT of its gRPC, by name."""
    grpc = require("tritonclient.grpc", extra="client")
    with grpc.InferenceServerClient(address) as client:
        found = client.get_inference_statistics(as_json=True)
    return {model["name"]: _counts(model) for model in found.get("model_stats", [])}


def statistics_after(address: str, before: Mapping[str, Counts], model: str, *, answered: int) -> dict[str, Counts]:
    """As `read_statistics`, when the model has counted so many more requests: Triton answers first and counts later.

    After COUNTING_S, whatever it has counted: what is missing then is for the reader to see.
    """
    begun = before[model].requests if model in before else 0
    late = time.monotonic() + COUNTING_S
    while True:
        found = read_statistics(address)
        if (model in found and found[model].requests - begun >= answered) or time.monotonic() > late:
            return found
        time.sleep(_AGAIN_S)


def work_between(before: Mapping[str, Counts], after: Mapping[str, Counts]) -> dict[str, dict[str, float]]:
    """Means of the requests between two readings, by model: milliseconds waiting and running, and the batch.

    Models that answered nothing meanwhile are left out. An ensemble runs while its steps wait and run.
    """
    work = {}
    for name, now in after.items():
        then = before.get(name, Counts(0, 0, dict.fromkeys(_TIMES, 0)))
        requests, executions = now.requests - then.requests, now.executions - then.executions
        if requests > 0 and executions > 0:
            means = {key: (now.times_ns[key] - then.times_ns[key]) / requests / 1e6 for key in _TIMES}
            work[name] = {"requests": requests, "batch": requests / executions, **means}
    return work


def _counts(model: Mapping[str, Any]) -> Counts:
    done = model.get("inference_stats", {})
    times = {key: int(done.get(name, {}).get("ns", 0)) for key, name in _TIMES.items()}
    return Counts(int(done.get("success", {}).get("count", 0)), int(model.get("execution_count", 0)), times)
