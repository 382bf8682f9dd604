"""Tensors in a region of shared memory: where they lie, and how they are written and read."""

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from chextriev.serving.client.regions import Region
from chextriev.serving.client.transport import Call

_ALIGNED = 64  # bytes

Places = Mapping[str, tuple[int, int]]
"""Tensor -> offset and size in a region, in bytes."""


class RegionOutputs:
    """tritonclient's result, with the outputs that lie in a region."""

    def __init__(self, region: Region, places: Places, call: Call, result: Any) -> None:
        self._region, self._places, self._result = region, places, result
        self._specs = {output.name: output for output in call.model.outputs}

    def as_numpy(self, name: str) -> npt.NDArray[Any] | None:
        """An output by its name, None where there is none."""
        if name not in self._places:
            found: npt.NDArray[Any] | None = self._result.as_numpy(name)
            return found
        said = self._result.get_output(name)
        if said is None:
            return None
        offset, size = self._places[name]
        shape = [int(length) for length in said.shape]
        flat = np.frombuffer(
            self._region.memory, self._specs[name].dtype, size // _width(self._specs[name].dtype), offset
        )
        return flat.reshape(shape)


def layout(call: Call) -> tuple[Places, Places, int]:
    """Where inputs and outputs lie in a region, and how large it must be, in bytes.

    An output whose size the model's configuration leaves open travels in the answer.
    """
    end = 0
    inputs, outputs = {}, {}
    for name, array in call.inputs.items():
        size = byte_size(array)
        inputs[name] = end, size
        end += -(-size // _ALIGNED) * _ALIGNED
    for output in call.model.outputs:
        inner = [int(length) for length in output.shape[1:]]
        if output.dtype == "bytes" or min(inner, default=1) < 0:
            continue
        size = call.rows * int(np.prod(inner)) * _width(output.dtype)
        outputs[output.name] = end, size
        end += -(-size // _ALIGNED) * _ALIGNED
    return inputs, outputs, end


def byte_size(array: npt.NDArray[Any]) -> int:
    """Bytes of a tensor as Triton lays it out: a `bytes` element follows its length in 4 bytes."""
    return sum(4 + len(item) for item in array.flat) if array.dtype == np.object_ else array.nbytes


def write(region: Region, offset: int, array: npt.NDArray[Any]) -> None:
    """Lay a tensor into a region."""
    if array.dtype != np.object_:
        region.memory[offset : offset + array.nbytes] = np.ascontiguousarray(array).tobytes()
        return
    for item in array.flat:
        end = offset + 4 + len(item)
        region.memory[offset : offset + 4] = struct.pack("<I", len(item))
        region.memory[offset + 4 : end] = item
        offset = end


def _width(dtype: str) -> int:
    return np.dtype(dtype).itemsize
