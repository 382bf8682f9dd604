"""A model repository whose ensemble has the tensors of ours and answers zeros, to try a local server on."""

from pathlib import Path

WORKER = "toy_worker"
ENSEMBLE = "chextriev_toy"
_TENSORS = (
    ("input", "image", "TYPE_STRING", (1,)),
    ("input", "boxes", "TYPE_FP32", (18, 4)),
    ("output", "embedding", "TYPE_FP32", (4,)),
)
_MODEL = """
import numpy as np
import triton_python_backend_utils as pb_utils

assert np.__version__ < "2"


class TritonPythonModel:
    def execute(self, requests):
        return [self._answer(pb_utils.get_input_tensor_by_name(request, "boxes").as_numpy()) for request in requests]

    def _answer(self, boxes):
        vectors = np.zeros((len(boxes), 4), np.float32)
        return pb_utils.InferenceResponse([pb_utils.Tensor("embedding", vectors)])
"""


def write_toy_repository(folder: Path, *, model: str = _MODEL, queue: int = 64, instances: int = 1) -> Path:
    """A Python model and an ensemble of it alone.

    model: its source. queue: requests that may wait for it. instances: how many processes it has.
    """
    worker = folder / WORKER
    (worker / "1").mkdir(parents=True)
    (worker / "1" / "model.py").write_text(model)
    (worker / "config.pbtxt").write_text(
        f'name: "{WORKER}"\nbackend: "python"\nmax_batch_size: 32\n{_tensors()}'
        f"instance_group [{{ kind: KIND_CPU, count: {instances} }}]\n"
        f"dynamic_batching {{ default_queue_policy {{ max_queue_size: {queue} }} }}\n"
    )
    (folder / ENSEMBLE / "1").mkdir(parents=True)
    maps = "".join(f'{role}_map {{ key: "{name}" value: "{name}" }}\n' for role, name, _, _ in _TENSORS)
    (folder / ENSEMBLE / "config.pbtxt").write_text(
        f'name: "{ENSEMBLE}"\nplatform: "ensemble"\nmax_batch_size: 32\n{_tensors()}'
        f'ensemble_scheduling {{ step [{{ model_name: "{WORKER}" model_version: -1\n{maps}}}] }}\n'
    )
    return folder


def _tensors() -> str:
    return "".join(
        f'{role} [{{ name: "{name}" data_type: {kind} dims: [{", ".join(map(str, dims))}] }}]\n'
        for role, name, kind, dims in _TENSORS
    )
