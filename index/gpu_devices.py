"""GPUs as Faiss sees them: which there are, where an index goes that is asked onto one, and how it is copied there."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from chextriev.errors import InvalidSetting
from chextriev.optional import require

faiss = require("faiss", extra="index")

CPU, CUDA = "cpu", "cuda"
_DEVICE = re.compile(r"cpu|cuda(:\d+(,\d+)*)?")
INSTALL = "pip uninstall faiss-cpu, then pip install 'chextriev[gpu-index]'"


def gpu_devices() -> list[int]:
    """Numbers of the GPUs that Faiss can use; none where it is built for the CPU."""
    return list(range(faiss.get_num_gpus())) if hasattr(faiss, "StandardGpuResources") else []


def explain_device(device: str) -> tuple[str, str]:
    """Where an index comes that is asked onto a device, as "cpu" or "cuda:0,1", and why, for a person.

    device: "cpu", "cuda" (the first GPU), "cuda:1", or several as "cuda:0,1". Where there is no GPU, or Faiss knows
    none, the CPU does the work. Raises InvalidSetting for other words, and for a GPU that is not there beside others.
    """
    if not _DEVICE.fullmatch(device):
        raise InvalidSetting(f"device {device!r}; choose cpu, cuda, or GPUs by number as in cuda:0 or cuda:0,1")
    if device == CPU:
        return CPU, "on the CPU, as asked"
    if not hasattr(faiss, "StandardGpuResources"):
        return CPU, f"on the CPU: the Faiss that is installed knows no GPU; run: {INSTALL}"
    there = gpu_devices()
    if not there:
        return CPU, "on the CPU: Faiss finds no GPU; see that nvidia-smi lists one and CUDA_VISIBLE_DEVICES names it"
    numbers = [int(number) for number in device.partition(":")[2].split(",") if number] or there[:1]
    if len(set(numbers)) < len(numbers) or not set(numbers) <= set(there):
        names = ", ".join(f"cuda:{number}" for number in there)
        raise InvalidSetting(f"device {device!r}; choose from {names}, each once")
    if len(numbers) == 1:
        return f"cuda:{numbers[0]}", f"on GPU {numbers[0]}"
    listed = ", ".join(map(str, numbers))
    return f"cuda:{','.join(map(str, numbers))}", f"on GPUs {listed}, each with a part of it"


class Copier(Protocol):
    """What brings an index to where it is searched."""

    def copy(self, index: Any, *, shard: bool = True) -> Any:
        """A copy of this Faiss index there, in parts or (shard False) whole on each GPU. Raises RuntimeError."""


@dataclass(frozen=True, eq=False)
class Gpus:
    """GPUs by number, and Faiss's scratch memory on each (about 1.5 GB), which one thread at a time may use."""

    numbers: tuple[int, ...]
    resources: tuple[Any, ...]

    @classmethod
    def open(cls, chosen: str) -> "Gpus":
        """GPUs as `explain_device` names them."""
        numbers = tuple(int(number) for number in chosen.partition(":")[2].split(","))
        return cls(numbers, tuple(faiss.StandardGpuResources() for _ in numbers))

    def copy(self, index: Any, *, shard: bool = True) -> Any:
        """See `Copier`."""
        if shard and len(self.numbers) > 1 and isinstance(index, faiss.IndexScalarQuantizer):
            pairs = zip(self.numbers, self.resources, strict=True)
            return in_parts(index, [Gpus((number,), (resource,)).copy for number, resource in pairs])
        lists = faiss.try_extract_index_ivf(index)
        options = faiss.GpuMultipleClonerOptions()
        options.shard = shard
        options.useFloat16 = isinstance(lists, faiss.IndexIVFPQ)  # its tables: in float32 they end at 48 parts a code
        options.use_cuvs = has_cuvs() and isinstance(lists, (faiss.IndexIVFFlat, faiss.IndexIVFPQ))
        return faiss.index_cpu_to_gpu_multiple_py(list(self.resources), index, options, list(self.numbers))


def open_gpus(device: str) -> tuple[Gpus | None, str]:
    """The GPUs of `explain_device`, None on the CPU; and its words."""
    chosen, words = explain_device(device)
    return (None, words) if chosen == CPU else (Gpus.open(chosen), words)


def has_cuvs() -> bool:
    """Whether Faiss was built with cuVS, which it uses only where it is told to."""
    return "CUVS" in faiss.get_compile_options()


def in_parts(storage: Any, copies: Sequence[Callable[[Any], Any]]) -> Any:
    """Vectors in half precision, a part of them copied by each; Faiss shards floats and lists itself, but not these."""
    codes = faiss.rev_swig_ptr(storage.codes.data(), storage.codes.size()).reshape(storage.ntotal, -1)
    bounds = np.linspace(0, storage.ntotal, len(copies) + 1).astype(int)
    shards = faiss.IndexShards(storage.d, True, True)  # threaded; rows continue from part to part
    for copy, start, stop in zip(copies, bounds[:-1], bounds[1:], strict=True):
        part = faiss.IndexScalarQuantizer(storage.d, storage.sq.qtype, storage.metric_type)
        part.add_sa_codes(codes[start:stop])
        shards.add_shard(copy(part))
    return shards
