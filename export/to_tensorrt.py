"""ONNX files to TensorRT plans, by one code path for TensorRT 10, TensorRT 11 and TensorRT for RTX.

Every network is strongly typed: what is float16 and what is int8 is said by the ONNX file, never by flags of the
builder. TensorRT 11 has no other kind; TensorRT 10 is told so.
"""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from chextriev.artifacts import write_bytes
from chextriev.errors import InvalidSetting, UnbuildableEngine
from chextriev.export.tensorrt_machine import (
    error_recorder,
    find_gpu,
    find_tensorrt,
    in_words,
    quiet_logger,
    this_machine,
)


@dataclass(frozen=True)
class PlanSettings:
    """How a plan is built.

    input: the input tensor. batches: a rising number of rows for each optimisation profile. A profile is tuned for its
    number and serves everything down to the next smaller profile, so that a lone radiograph, a small and a large batch
    each meet kernels chosen for their size. workspace_mib: the most scratch memory on the GPU that a step may take; an
    int8 backbone, which is compiled into one step, needs 4.1 GiB of it for 576 crops.
    """

    input: str
    batches: tuple[int, ...]
    workspace_mib: int = 8192

    def __post_init__(self) -> None:
        rising = all(low < high for low, high in pairwise((0, *self.batches)))
        if not self.input or not self.batches or not rising or self.workspace_mib < 1:
            raise InvalidSetting(
                f"{self!r}: name the input, give rising batches from 1 on, such as (18, 144, 576), and at least 1 MiB"
            )

    @property
    def profiles(self) -> tuple[tuple[int, int], ...]:
        """Fewest and most rows of each optimisation profile; together 1 to the largest batch without gaps."""
        return tuple((low + 1, high) for low, high in pairwise((0, *self.batches)))


BATCHES = (1, 8, 32)
"""Radiographs at once that plans are tuned for: a query, a small and a large batch."""


def backbone_settings(crops: int) -> PlanSettings:
    """Of engine `region_backbone`, for systems with this many crops a radiograph."""
    return PlanSettings("crops", tuple(crops * batch for batch in BATCHES))


def encoder_settings() -> PlanSettings:
    """Of engine `encoder`."""
    return PlanSettings("features", BATCHES)


def build_plan(onnx: bytes, settings: PlanSettings, *, timing_cache: Path | None = None) -> bytes:
    """The plan of an ONNX model for this machine, one optimisation profile for each of the settings' batches.

    timing_cache: a file of kernel timings, read if it is there and replaced afterwards, so that a second build of
    similar layers takes seconds. TensorRT for RTX times nothing and leaves it alone.
    UnbuildableEngine says in TensorRT's words what it cannot read or build; MissingDependency that TensorRT or a GPU is
    missing.
    """
    found = find_tensorrt()
    this_machine(found)
    trt = found.module
    builder = trt.Builder(quiet_logger(trt))
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, quiet_logger(trt))
    _parse(parser, onnx)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_mib * 2**20)
    _add_profiles(builder, config, network, settings)
    timings = None
    if found.runtime == "tensorrt_rtx":
        _target(trt, config)
    elif timing_cache is not None:
        timings = _load_timings(config, timing_cache)
    plan = _build(trt, builder, network, config)
    if timing_cache is not None and timings is not None:
        write_bytes(timing_cache, bytes(timings.serialize()))
    return bytes(plan)


def _build(trt: Any, builder: Any, network: Any, config: Any) -> Any:
    """The builder has a recorder for this call only: native objects must not outlive one that they know."""
    recorder = error_recorder(trt)
    builder.error_recorder = recorder
    try:
        plan = builder.build_serialized_network(network, config)
    finally:
        builder.error_recorder = None
    if plan is None:
        raise UnbuildableEngine(f"TensorRT cannot build the engine: {recorder.words()}")
    return plan


def _network_flags(trt: Any) -> int:
    """Strongly typed; where that is the only kind, the flag may be gone."""
    flag = getattr(getattr(trt, "NetworkDefinitionCreationFlag", None), "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _parse(parser: Any, onnx: bytes) -> None:
    if onnx and parser.parse(onnx):
        return
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    said = [f"{error.desc()}{_place(error)}" for error in errors]
    raise UnbuildableEngine(
        f"TensorRT cannot read the ONNX model: {in_words(said)}; it takes float32, float16 and symmetric int8, whose"
        " zero points are 0"
    )


def _place(error: Any) -> str:
    return f" (node {error.node_name()}, {error.node_operator()})" if error.node_name() else ""


def _add_profiles(builder: Any, config: Any, network: Any, settings: PlanSettings) -> None:
    inputs = {network.get_input(index).name: network.get_input(index) for index in range(network.num_inputs)}
    if set(inputs) != {settings.input}:
        raise UnbuildableEngine(
            f"the ONNX model has the inputs {', '.join(inputs) or '(none)'}; {settings.input} alone is needed"
        )
    first, *shape = inputs[settings.input].shape
    if first != -1 or -1 in shape:
        raise UnbuildableEngine(
            f"{settings.input} has shape {[first, *shape]} in the ONNX model; the first dimension alone must be free"
        )
    for low, high in settings.profiles:
        profile = builder.create_optimization_profile()
        profile.set_shape(settings.input, (low, *shape), (high, *shape), (high, *shape))
        config.add_optimization_profile(profile)


def _target(trt: Any, config: Any) -> None:
    """Tell TensorRT for RTX what to compile for: the GPU that is there, else that of NO_GPU."""
    config.num_compute_capabilities = 1
    capability = trt.ComputeCapability.SM86 if find_gpu() is None else trt.ComputeCapability.CURRENT
    config.set_compute_capability(capability, 0)


def _load_timings(config: Any, path: Path) -> Any:
    """The timing cache of a file, or an empty one where there is none that this TensorRT and GPU can use."""
    stored = path.read_bytes() if path.is_file() else b""
    timings = config.create_timing_cache(stored)
    if timings is None or not config.set_timing_cache(timings, ignore_mismatch=False):
        timings = config.create_timing_cache(b"")
        config.set_timing_cache(timings, ignore_mismatch=False)
    return timings
