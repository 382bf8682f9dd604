"""A TensorRT plan that runs: numpy arrays in, numpy arrays out, on an NVIDIA GPU."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from chextriev.errors import DamagedArtifact, InvalidSetting, MissingDependency
from chextriev.export.tensorrt_machine import (
    TITLES,
    PlanKey,
    check_machine,
    error_recorder,
    find_tensorrt,
    quiet_logger,
    this_machine,
)

DTYPES = {"FLOAT": torch.float32, "UINT8": torch.uint8}
"""TensorRT's names of the types that engines take and give."""

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Buffer:
    """A tensor of the engine for its largest batch, on the GPU and in pinned memory of the host, which copies need."""

    device: torch.Tensor
    host: torch.Tensor

    @classmethod
    def of(cls, shape: Sequence[int], dtype: torch.dtype) -> "Buffer":
        """Allocate both."""
        shape = tuple(shape)
        return cls(torch.empty(shape, dtype=dtype, device="cuda"), torch.empty(shape, dtype=dtype, pin_memory=True))


class TensorRTSession:
    """Executes one plan.

    Safe to call from several threads: a lock lets one batch at a time onto the GPU, which would not be faster with two,
    while other threads decode and crop. So memory is bounded by what is allocated here: one execution context and one
    buffer a tensor for the largest batch. input, outputs: names of tensors.
    """

    def __init__(self, plan: bytes, key: PlanKey) -> None:
        """Open a plan; key: what it was built by and for.

        OtherMachine if that is not this machine, MissingDependency where there is no TensorRT or GPU, DamagedArtifact
        if TensorRT cannot read the plan.
        """
        found = find_tensorrt()
        check_machine(key, this_machine(found))
        if not torch.cuda.is_available():
            raise MissingDependency(
                f"{TITLES[found.runtime]} runs plans on an NVIDIA GPU, and torch sees none here; use a machine with"
                " one, or the engine onnx-fp32"
            )
        self._lock = Lock()
        self._stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._open(found.module, plan)
        self._name_tensors(found.module)
        self._buffers = self._allocate()

    def run(self, feeds: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        """Outputs by name, [n, ...] each, of the input [n, ...]; any n, none included.

        Batches larger than the largest profile are split. InvalidSetting for another input.
        """
        rows = self._checked(feeds)
        parts: list[Arrays] = [{name: self._buffers[name].host[:0].numpy() for name in self.outputs}]
        with self._lock, torch.cuda.stream(self._stream):
            parts += [self._run_batch(rows[piece]) for piece in split_rows(len(rows), self.profiles)]
        return {name: np.concatenate([part[name] for part in parts]) for name in self.outputs}

    def _open(self, trt: Any, plan: bytes) -> None:
        recorder, runtime = error_recorder(trt), trt.Runtime(quiet_logger(trt))
        runtime.error_recorder = recorder
        engine = runtime.deserialize_cuda_engine(plan)
        context: Any = None if engine is None else engine.create_execution_context()
        # Attributes die in this order, and none of these may die before those to its left.
        self._context, self._engine, self._runtime, self._recorder = context, engine, runtime, recorder
        if context is None:
            raise self._fault("read")

    def _run_batch(self, rows: npt.NDArray[Any]) -> Arrays:
        count, stream, given = len(rows), self._stream.cuda_stream, self._buffers[self.input]
        np.copyto(given.host[:count].numpy(), rows)
        given.device[:count].copy_(given.host[:count], non_blocking=True)
        self._select(profile_for(count, self.profiles))
        ready = self._context.set_input_shape(self.input, tuple(rows.shape))
        for name, buffer in self._buffers.items():
            ready = ready and self._context.set_tensor_address(name, buffer.device.data_ptr())
        if not ready or not self._context.execute_async_v3(stream):
            raise self._fault("run")
        for name in self.outputs:
            self._buffers[name].host[:count].copy_(self._buffers[name].device[:count], non_blocking=True)
        self._stream.synchronize()
        return {name: self._buffers[name].host[:count].numpy().copy() for name in self.outputs}

    def _select(self, profile: int) -> None:
        """Change the optimisation profile on our stream, so that the batch after it waits for the change."""
        if self._context.active_optimization_profile == profile:
            return
        if not self._context.set_optimization_profile_async(profile, self._stream.cuda_stream):
            raise self._fault("run")

    def _checked(self, feeds: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
        if set(feeds) != {self.input}:
            raise InvalidSetting(f"the engine was given {', '.join(feeds) or 'nothing'}; it takes {self.input}")
        rows, wanted = feeds[self.input], self._buffers[self.input].host.numpy()
        if rows.shape[1:] != wanted.shape[1:] or rows.dtype != wanted.dtype:
            raise InvalidSetting(
                f"{self.input} is {rows.dtype} {list(rows.shape)}; {wanted.dtype} {['n', *wanted.shape[1:]]} is needed"
            )
        return rows

    def _name_tensors(self, trt: Any) -> None:
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        given = [name for name in names if self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        types = {name: self._engine.get_tensor_dtype(name).name for name in names}
        if len(given) != 1 or not set(types.values()) <= set(DTYPES):
            raise DamagedArtifact(
                f"the plan has inputs {', '.join(given)} and tensors {types}; an engine has one input, and tensors are"
                f" {' or '.join(DTYPES)}"
            )
        self.input = given[0]
        self.outputs = tuple(name for name in names if name != self.input)
        self._types = {name: DTYPES[kind] for name, kind in types.items()}
        shapes = [
            self._engine.get_tensor_profile_shape(self.input, index)
            for index in range(self._engine.num_optimization_profiles)
        ]
        self.profiles = tuple((int(low[0]), int(high[0])) for low, _, high in shapes)
        self._largest = tuple(shapes[-1][2])

    def _allocate(self) -> dict[str, Buffer]:
        """Buffers of the shapes that the largest batch has."""
        with torch.cuda.stream(self._stream):
            self._select(len(self.profiles) - 1)
            self._stream.synchronize()
        if not self._context.set_input_shape(self.input, self._largest):
            raise self._fault("run")
        shapes = {name: self._context.get_tensor_shape(name) for name in (self.input, *self.outputs)}
        return {name: Buffer.of(shape, self._types[name]) for name, shape in shapes.items()}

    def _fault(self, verb: str) -> DamagedArtifact:
        """An error in TensorRT's words."""
        said = self._recorder.words()
        self._recorder.clear()
        return DamagedArtifact(f"TensorRT cannot {verb} the plan: {said}; build it again, and look at the GPU's memory")


def profile_for(rows: int, profiles: Sequence[tuple[int, int]]) -> int:
    """Index of the profile (fewest, most rows) for a batch.

    >>> [profile_for(rows, [(1, 18), (19, 144), (145, 576)]) for rows in (1, 18, 19, 576)]
    [0, 0, 1, 2]
    """
    for index, (low, high) in enumerate(profiles):
        if low <= rows <= high:
            return index
    raise InvalidSetting(f"no profile of the plan takes {rows} rows; there are {', '.join(map(str, profiles))}")


def split_rows(rows: int, profiles: Sequence[tuple[int, int]]) -> list[slice]:
    """Batches for so many rows: as large as the largest profile takes, then the rest.

    >>> split_rows(40, [(1, 4), (5, 16)])
    [slice(0, 16, None), slice(16, 32, None), slice(32, 40, None)]
    """
    largest = max(high for _, high in profiles)
    return [slice(start, min(start + largest, rows)) for start in range(0, rows, largest)]
