"""The TensorRT that is installed, the GPU that is there, and the plans that belong to both.

Three libraries have the same Python interface: TensorRT 10, TensorRT 11 and TensorRT for RTX. TensorRT times kernels on
the GPU that it builds for, so it needs one. TensorRT for RTX compiles ahead of time without, for a compute capability:
that is how tests run the real parser and type check anywhere.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from chextriev.errors import InvalidSetting, MissingDependency, OtherMachine
from chextriev.optional import require

EXTRA = "gpu-tensorrt"
TITLES = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT for RTX"}
"""Modules with TensorRT's Python interface, in order of preference, and what people call them."""

NO_GPU = "compute capability 8.6, without a GPU"
"""What TensorRT for RTX compiles for where there is no GPU: Ampere, the oldest that it takes without being asked."""

REBUILD = "build it here: chextriev export engines BUNDLE DATA --engines tensorrt-fp16 (or tensorrt-int8)"


@dataclass(frozen=True)
class TensorRT:
    """An installed TensorRT. runtime: a name of TITLES."""

    module: Any
    runtime: str
    version: str


@dataclass(frozen=True)
class PlanKey:
    """What a plan belongs to: the TensorRT that built it, to the last digit of its version, and the GPU's name.

    Source: https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/advanced.html (version and hardware
    compatibility). The modes that relax both cost speed, and building anew takes minutes.
    """

    runtime: str
    version: str
    gpu: str

    def __post_init__(self) -> None:
        if self.runtime not in TITLES or not self.version or not self.gpu:
            raise InvalidSetting(
                f"{self!r} is no key of a plan: runtime is one of {', '.join(TITLES)}, and all are given"
            )

    @property
    def folder(self) -> str:
        """A folder name: small letters, digits, dots and hyphens."""
        return re.sub(r"[^a-z0-9.]+", "-", f"{self.runtime} {self.version} {self.gpu}".lower()).strip("-")

    def __str__(self) -> str:
        return f"{TITLES[self.runtime]} {self.version} for {self.gpu}"


def find_tensorrt() -> TensorRT:
    """The installed TensorRT, else TensorRT for RTX; MissingDependency names the extra where there is neither."""
    for runtime in TITLES:
        try:
            module = require(runtime, extra=EXTRA)
        except MissingDependency:
            continue
        except (ImportError, OSError) as error:
            raise MissingDependency(
                f"{runtime} is installed but cannot be loaded ({error}); install it anew"
            ) from error
        return TensorRT(module, runtime, str(module.__version__))
    raise MissingDependency(f"this needs TensorRT, which is not installed; run: pip install 'chextriev[{EXTRA}]'")


def this_machine(tensorrt: TensorRT | None = None) -> PlanKey:
    """The key of plans that this machine builds and runs; MissingDependency where TensorRT has no GPU to build for."""
    found = tensorrt or find_tensorrt()
    gpu = find_gpu()
    if gpu is None and found.runtime != "tensorrt_rtx":
        raise MissingDependency(
            f"TensorRT {found.version} needs an NVIDIA GPU, and torch sees none here; use a machine with one, and torch"
            " built for CUDA"
        )
    return PlanKey(found.runtime, found.version, gpu or NO_GPU)


def find_gpu() -> str | None:
    """The name of the current NVIDIA GPU, None where torch sees none."""
    torch = require("torch", extra="export")
    return str(torch.cuda.get_device_name()) if torch.cuda.is_available() else None


def check_machine(built: PlanKey, here: PlanKey) -> None:
    """Refuse a plan of another TensorRT or GPU with OtherMachine, before any native code reads it."""
    if built != here:
        raise OtherMachine(f"the plan was built by {built}; this machine has {here}; {REBUILD}")


@cache
def quiet_logger(trt: Any) -> Any:
    """One logger a process, as TensorRT wants it. Errors reach people through exceptions; the rest is for NVIDIA."""
    return trt.Logger(trt.Logger.INTERNAL_ERROR)


def error_recorder(trt: Any) -> Any:
    """An object in which builders and runtimes write down what went wrong; `words()` reads it as one line."""

    class Recorder(trt.IErrorRecorder):  # type: ignore[misc]  # its class is known at run time only
        def __init__(self) -> None:
            trt.IErrorRecorder.__init__(self)
            self.errors: list[tuple[Any, str]] = []

        def report_error(self, code: Any, description: str) -> bool:
            self.errors.append((code, description))
            return False

        def clear(self) -> None:
            self.errors.clear()

        def num_errors(self) -> int:
            return len(self.errors)

        def get_error_code(self, index: int) -> Any:
            return self.errors[index][0]

        def get_error_desc(self, index: int) -> str:
            return self.errors[index][1]

        def has_overflowed(self) -> bool:
            return False

        def words(self) -> str:
            return in_words([description for _, description in self.errors])

    return Recorder()


def in_words(said: Sequence[str]) -> str:
    """The first three distinct sentences: one fault is often reported for many nodes."""
    return "; ".join(list(dict.fromkeys(" ".join(text.split()) for text in said))[:3]) or "it does not say why"
