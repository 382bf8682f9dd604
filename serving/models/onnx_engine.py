"""Models `region_backbone` and `encoder_<system>` on a processor: the session of the in-process engine."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from chextriev.errors import DamagedArtifact, UnprovenEngine
from chextriev.export.onnx_runner import open_session
from chextriev.export.runners import CROPS_AT_ONCE, in_parts
from chextriev.machine import cpu_arithmetic
from chextriev.serving.models.answers import Tensors, answer_together, check_numpy
from chextriev.serving.wire import CROPS, FEATURES

MODEL_FILE = "model.onnx"


class OnnxEngine:
    """One part of an encoder bundle on ONNX Runtime, with the options and in the portions of the in-process engine.

    crops [B, n, 1, size, size] uint8 -> features [B, n, width] float32; or features -> the encoder's outputs.
    """

    def initialize(self, args: dict[str, str]) -> None:
        """Triton's call before the first request."""
        check_numpy()
        config = json.loads(args["model_config"])
        parameters = {name: value["string_value"] for name, value in config["parameters"].items()}
        check_machine(parameters)
        path = Path(args["model_repository"]) / args["model_version"] / MODEL_FILE
        # Several models share the processor: threads that wait in a loop for one keep the cores from the others, and
        # from decoding.
        model = read_model(path, parameters["sha256"])
        self._session = open_session(model, where=args["model_name"], spin=False)
        self._outputs = [output["name"] for output in config["output"]]
        self._input = config["input"][0]["name"]

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Triton's call for the requests of one batch."""
        return answer_together(requests, self._input, self._features if self._input == CROPS else self._relate)

    def _features(self, crops: npt.NDArray[np.uint8]) -> Tensors:
        rows = crops.reshape(-1, *crops.shape[2:])
        features = in_parts(self._extract, rows, CROPS_AT_ONCE["cpu"], 0)
        return {FEATURES: features.reshape(*crops.shape[:2], -1)}

    def _extract(self, crops: npt.NDArray[np.uint8]) -> Any:
        return self._session.run(None, {CROPS: crops})[0]

    def _relate(self, features: npt.NDArray[np.float32]) -> Tensors:
        found = self._session.run(self._outputs, {FEATURES: features})
        return dict(zip(self._outputs, found, strict=True))


def read_model(path: Path, sha256: str) -> bytes:
    """The file's bytes, if they are those of the repository's making."""
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise DamagedArtifact(f"{path.name} is not the file that the repository was made with; export it again")
    return content


def check_machine(parameters: dict[str, str]) -> None:
    """UnprovenEngine where the retrieval gate has not passed the engine on this kind of machine.

    An engine in float32 needs no proof: it is within 1e-4 of PyTorch, or there were no bundle.
    """
    here, proven = cpu_arithmetic(), parameters.get("proven_on")
    if proven is not None and here not in proven.split(", "):
        engine = parameters["engine"]
        raise UnprovenEngine(
            f"engine {engine} is proven on {proven}, this machine is {here}; prove it here: chextriev export engines"
            f" BUNDLE DATA --engines {engine}, and export the repository again"
        )
