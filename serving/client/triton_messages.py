"""What Triton's gRPC and HTTP have in common: inputs of a request, and a model's configuration as a description."""

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from chextriev.bundle import TensorSpec
from chextriev.errors import ServerFailed
from chextriev.serving.client.statuses import new_error
from chextriev.serving.client.transport import Call, ModelDescription, Tensors

_DTYPES = {"TYPE_FP32": "float32", "TYPE_UINT8": "uint8", "TYPE_INT32": "int32", "TYPE_STRING": "bytes"}
UNREADABLE = (ValueError, TypeError, KeyError, IndexError, AttributeError)
"""What tritonclient raises over an answer that is not Triton's."""
WIRE_TYPES = {"float32": "FP32", "uint8": "UINT8", "int32": "INT32", "object": "BYTES"}


def triton_inputs(library: Any, call: Call) -> list[Any]:
    """The inputs of a call; library: `tritonclient.grpc` or `tritonclient.http`."""
    inputs = []
    for name, array in call.inputs.items():
        inputs.append(library.InferInput(name, list(array.shape), WIRE_TYPES[str(array.dtype)]))
        inputs[-1].set_data_from_numpy(array)
    return inputs


def microseconds(timeout_s: float) -> int:
    """For a server's queue: what waits longer is dropped there; at least 1, as 0 would mean for ever."""
    return max(1, int(timeout_s * 1e6))


def read_outputs(result: Any, call: Call, address: str) -> Tensors:
    """The outputs of a tritonclient result by name; ServerFailed where one is missing or its bytes do not fit."""
    try:
        found = {output.name: result.as_numpy(output.name) for output in call.model.outputs}
    except (*UNREADABLE, struct.error):
        found = {}
    missing = [output.name for output in call.model.outputs if found.get(output.name) is None]
    if missing:
        raise new_error(ServerFailed, f"{call.model.name} answers without {', '.join(missing)}", address)
    return {name: np.asarray(array) for name, array in found.items()}


def describe(config: Mapping[str, Any], address: str) -> ModelDescription:
    """A model's configuration in JSON form (numbers may be strings) as a description."""
    try:
        outputs = tuple(
            TensorSpec(item["name"], ("B", *map(int, item["dims"])), _DTYPES.get(item["data_type"], item["data_type"]))
            for item in config["output"]
        )
        parameters = {name: str(value["string_value"]) for name, value in config.get("parameters", {}).items()}
        return ModelDescription(str(config["name"]), outputs, parameters)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise new_error(ServerFailed, "the model's configuration cannot be read; is this a Triton?", address) from None
