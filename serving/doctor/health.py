"""`python -m chextriev.serving.doctor.health MODELS`: the health check of a container, run inside it.

Every ensemble of the model repository must encode a small image, over HTTP on loopback: where the image runs, gRPC may
want a certificate, and HTTP is open to nobody else. Only numpy and the decoder of images are needed.
"""

import argparse
import json
import math
import os
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from chextriev.serving.doctor.attacks import DATATYPES, tensor_bytes
from chextriev.serving.doctor.plain_http import http_request
from chextriev.serving.wire import OUTPUTS, canary, ensemble_tensors

HEADER = "Inference-Header-Content-Length"
FULL = "maximum queue size"
"""In the words with which Triton refuses a request because too many wait: a sign of life."""
COUNT = Path("/tmp/chextriev-health")
"""Holds the number of failures since the last success; not there before the first."""


def main(arguments: Sequence[str] | None = None) -> int:
    """0 if every ensemble answers, else 1, with the reason on standard output."""
    parser = argparse.ArgumentParser(prog="chextriev.serving.doctor.health", description=__doc__)
    parser.add_argument("models", type=Path, help="the model repository that is served")
    parser.add_argument("--port", type=int, default=8000, help="of HTTP on loopback (default: %(default)s)")
    parser.add_argument(
        "--timeout", type=float, default=10.0, metavar="S", help="of all models together (default: %(default)s)"
    )
    parser.add_argument("--end-after", type=int, metavar="N", help="end process 1 at the Nth failure in a row")
    options = parser.parse_args(arguments)
    faults = ailments(options.models, options.port, timeout_s=options.timeout)
    sys.stdout.write("; ".join(faults) or "healthy")
    if options.end_after and count_failures(COUNT, bool(faults)) >= options.end_after:
        os.kill(1, signal.SIGTERM)
    return 1 if faults else 0


def ailments(models: Path, port: int, *, timeout_s: float) -> list[str]:
    """What is wrong with each ensemble that is served; empty where all are well, or so busy that their queue is full.

    All are asked at the same time, so that `timeout_s` is for all of them.
    """
    names = ensembles(models)
    if not names:
        return [f"{models} holds no ensemble that takes radiographs"]
    with ThreadPoolExecutor(len(names)) as threads:
        faults = list(threads.map(lambda name: ailment(name, port, timeout_s=timeout_s), names))
    return [f"{name}: {fault}" for name, fault in zip(names, faults, strict=True) if fault]


def ensembles(models: Path) -> list[str]:
    """Names of the ensembles in a repository that take an image and boxes, or an image whose boxes they answer with."""
    found = []
    for path in sorted(models.glob("*/config.pbtxt")):
        text = path.read_text(encoding="utf-8", errors="replace")
        if "ensemble_scheduling" in text and all(f'name: "{name}"' in text for name in DATATYPES):
            found.append(path.parent.name)
    return found


def ailment(name: str, port: int, *, timeout_s: float) -> str:
    """What is wrong with one ensemble; empty where it encodes the canary into finite numbers, or its queue is full."""
    sent = ensemble_tensors(name, [canary()])
    tensors = {key: (tensor.shape, tensor_bytes(tensor)) for key, tensor in sent.items()}
    inputs = [
        {"name": key, "datatype": DATATYPES[key], "shape": shape, "parameters": {"binary_data_size": len(raw)}}
        for key, (shape, raw) in tensors.items()
    ]
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    body = head + b"".join(raw for _, raw in tensors.values())
    line = f"POST /v2/models/{name}/infer"
    answer = http_request(("127.0.0.1", port), line, body, {HEADER: str(len(head))}, timeout_s=timeout_s)
    if answer.status == 503 and FULL in answer.text:
        return ""
    if answer.status != 200:
        return f"status {answer.status}" if answer.status else answer.text
    try:
        length = int((answer.headers or {}).get(HEADER, len(answer.content)))
        return fault_in(json.loads(answer.content[:length])["outputs"], answer.content[length:])
    except (ValueError, KeyError, TypeError):
        return "an answer that is not of its protocol"


def fault_in(outputs: list[dict[str, object]], raw: bytes) -> str:
    """What is wrong with the outputs of an inference, described by JSON and held one after another by `raw`."""
    if not any(output["name"] in OUTPUTS for output in outputs):
        return "no output of an encoder"
    start = 0
    for output in outputs:
        parameters, shape = output.get("parameters"), output["shape"]
        size = parameters.get("binary_data_size", 0) if isinstance(parameters, dict) else 0
        numbers = np.frombuffer(raw, np.uint8, size, start) if start + size <= len(raw) else np.empty(0, np.uint8)
        start += size
        if output["datatype"] == "FP32" and (
            not isinstance(shape, list)
            or numbers.size != 4 * math.prod(shape)
            or not np.isfinite(numbers.view(np.float32)).all()
        ):
            return f"{output['name']} is not whole, or not finite"
    return ""


def count_failures(path: Path, failed: bool) -> int:
    """Failures in a row since the first success; a server that is still starting has none."""
    if not failed:
        path.write_text("0")
        return 0
    if not path.exists():
        return 0
    count = int(path.read_text() or "0") + 1
    path.write_text(str(count))
    return count


if __name__ == "__main__":
    sys.exit(main())
