"""Which engine, on which files and which machine: all that its embeddings and its speed depend on."""

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from chextriev.artifacts import Recipe
from chextriev.bundle import PARTS
from chextriev.encoder import Encoder
from chextriev.machine import describe_machine
from chextriev.study_table import StudyTable

METHOD = 1
"""Part of every recipe here; raise it when the same engine begins to give other vectors or is timed in another way."""

DISTRIBUTIONS = {
    "torch": ("torch",),
    "onnx": ("onnxruntime", "onnxruntime-gpu"),
    "tensorrt": ("tensorrt", "tensorrt-cu12", "tensorrt-cu13"),
}
"""Packages that may hold an executor, by the first word of an engine's name."""

OTHERS = ("numpy", "pillow", "simplejpeg")
"""Packages that decode, crop and compare."""


@dataclass(frozen=True, eq=False)
class Subject:
    """An opened engine, the radiographs of a split that it is tried on, and the folder of its results.

    device: what executes it. recipe: all that its results depend on. label: what the progress bar calls the work.
    """

    encoder: Encoder
    device: str
    table: StudyTable
    folder: Path
    recipe: Recipe
    label: str = "embed"


def device_of(engine: str, device: str) -> str:
    """What executes an engine where others run on `device`: TensorRT has no other choice than "cuda"."""
    return "cuda" if engine.startswith("tensorrt") else device


def engine_files(encoder: Encoder) -> dict[str, dict[str, Any]]:
    """The files that an opened engine runs, those of its plans for TensorRT: name -> size in bytes and sha256."""
    record = encoder.bundle.engine(encoder.engine)
    plans = (
        plan for plan in record.plans.values() if encoder.arithmetic.endswith(f" {plan['version']} for {plan['gpu']}")
    )
    used = next(plans, record.files)
    return {used[part]: dict(encoder.bundle.manifest.files[used[part]]) for part in PARTS}


def engine_recipe(encoder: Encoder, table: StudyTable, split: str) -> Recipe:
    """What embeddings of a split by an opened engine are made of, this machine included: its speed goes with them."""
    machine = {key: value for key, value in describe_machine().items() if key in ("cpu", "cores")}
    settings = {
        "engine": encoder.engine,
        "split": split,
        "method": METHOD,
        "files": engine_files(encoder),
        "machine": {**machine, "arithmetic": encoder.arithmetic},
        "versions": installed((*DISTRIBUTIONS[encoder.engine.split("-")[0]], *OTHERS)),
    }
    return Recipe(settings, {"encoder": encoder.bundle.digest, "study table": table.digest})


def installed(distributions: Iterable[str]) -> dict[str, str]:
    """The versions of those that are installed."""
    found = {}
    for name in distributions:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
