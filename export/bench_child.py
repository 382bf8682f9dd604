"""A process that serves one engine, as `chextriev bench encode` starts it afresh; measured from inside.

    python -m chextriev.export.bench_child BUNDLE ENGINE IMAGE BOXES ENCODES

It imports what serving imports and nothing else. It writes one JSON document to standard output.
"""

import json
import sys
import time

from chextriev.encoder import open_encoder
from chextriev.machine import peak_memory_bytes
from chextriev.radiograph import read_radiograph

HEAVY = ("torch", "onnx", "onnxscript", "scipy", "pandas", "pyarrow", "pytorch_lightning", "faiss")
"""Modules that serving on ONNX Runtime must do without: each costs memory, and most cost seconds."""


def serve(words: list[str]) -> dict[str, object]:
    """Open an engine and encode one radiograph again and again.

    Moments are those of the system's monotonic clock, which all processes share, in seconds; memory is in MB (10^6
    bytes).
    """
    bundle, engine, image, boxes, encodes = words
    moments, memory = {"imported": time.monotonic()}, {}
    encoder = open_encoder(bundle, engine=engine)
    moments["opened"], memory["opened"] = time.monotonic(), peak_memory_bytes() / 1e6
    for number in range(int(encodes)):
        encoder.encode([read_radiograph(image, boxes)])
        if number == 0:
            moments["first embedding"], memory["first embedding"] = time.monotonic(), peak_memory_bytes() / 1e6
    memory["peak"] = peak_memory_bytes() / 1e6
    return {"moments": moments, "memory": memory, "heavy_imports": [name for name in HEAVY if name in sys.modules]}


if __name__ == "__main__":
    json.dump(serve(sys.argv[1:]), sys.stdout)
