"""How fast an encoder is: the published eager pipeline against the exported engines, in one run."""

import time
from collections.abc import Mapping
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from chextriev.bundle import DEFAULT
from chextriev.encoder import open_encoder
from chextriev.export.bench_baseline import PlainPipeline
from chextriev.export.bench_bundle import CALIBRATION, EncodeBenchSettings, Subject, make_subject
from chextriev.export.bench_pipelines import (
    PARTS,
    READING,
    Pipeline,
    Work,
    engine_pipeline,
    engines_for,
    plain_pipeline,
    torch_on_gpu,
)
from chextriev.export.bench_process import measure_process
from chextriev.machine import describe_machine, median_ratio, time_in_turn
from chextriev.optional import require

__all__ = ["EncodeBenchSettings", "bench_encode", "measure_encode"]

BASELINE, INT8 = "baseline", "onnx-int8"
BATCHES = 2
"""Batches in a row where throughput is measured: reading can overlap with encoding from the second on."""

BATCH_REPEATS = 3
"""At most; a turn takes a minute on two cores."""

ENCODES = 5
"""Radiographs that a fresh process encodes, one at a time, before its memory is read."""

Times = dict[str, list[float]]


def bench_encode(settings: EncodeBenchSettings) -> dict[str, Any]:
    """Medians of each pipeline's parts, their ratios and the targets that they meet; JSON-able.

    ms and cpu_ms are of one radiograph (cpu_ms: processor time of all threads, waiting in a loop included), ratios are
    medians over neighbouring turns. end_to_end: a JPEG file's bytes on disk to the embedding.
    """
    with TemporaryDirectory() as folder:
        return measure_encode(make_subject(Path(folder), settings, engines_for(settings.device)), settings)


def measure_encode(subject: Subject, settings: EncodeBenchSettings) -> dict[str, Any]:
    """What `bench_encode` gives, of a subject that is there."""
    processes = _processes(subject, settings)
    pipelines = _pipelines(subject, settings)
    wall, cpu = _time_parts(pipelines, settings.repeats)
    several = {name: pipeline.several for name, pipeline in pipelines.items()}
    batches = time_in_turn(several, repeats=min(settings.repeats, BATCH_REPEATS))
    return {
        "settings": asdict(settings),
        "machine": describe_machine(),
        "versions": {name: str(require(name, extra="export").__version__) for name in ("onnxruntime", "torch")},
        "radiograph": {"bytes": subject.sample.image.stat().st_size, "crops": subject.trained.spec.crops.count},
        "ms": _milliseconds(wall),
        "cpu_ms": _milliseconds(cpu),
        "radiographs_per_s": {name: settings.batch * BATCHES / median(seconds) for name, seconds in batches.items()},
        "times_faster": _ratios(wall, batches),
        "process": processes,
        "targets": _targets(wall, cpu, processes) if INT8 in wall else {},
        "notes": _notes(settings),
    }


def _pipelines(subject: Subject, settings: EncodeBenchSettings) -> dict[str, Pipeline]:
    """By name, the slowest first."""
    sizes, device = {"batch": settings.batch, "batches": BATCHES}, settings.device
    plain = PlainPipeline(subject.backbone, subject.trained, device)
    encoders = torch_on_gpu(subject.bundle) if device == "cuda" else {}
    for name in (DEFAULT, *engines_for(device)):
        encoders[name] = open_encoder(subject.bundle, engine=name, device=device)
    served = {name: engine_pipeline(encoder, subject.sample, **sizes) for name, encoder in encoders.items()}
    return {BASELINE: plain_pipeline(plain, subject.sample, **sizes), **served}


def _time_parts(pipelines: Mapping[str, Pipeline], repeats: int) -> tuple[dict[str, Times], dict[str, Times]]:
    """Seconds, and seconds of processor time, by pipeline and part.

    Reading is the same for every engine and measured once, and it comes first in each turn: threads of the step before
    still spin for some milliseconds, which decoding in Pillow then takes upon itself.
    """
    reading = {BASELINE: pipelines[BASELINE], DEFAULT: pipelines[DEFAULT]}
    works = {(name, part): pipeline.parts[part] for name, pipeline in reading.items() for part in READING}
    for name, pipeline in pipelines.items():
        works |= {(name, part): pipeline.parts[part] for part in PARTS if part not in READING}
    cpu: dict[tuple[str, str], list[float]] = {key: [] for key in works}
    names = {" ".join(key): key for key in works}
    wall = time_in_turn({label: _metered(works[key], cpu[key]) for label, key in names.items()}, repeats=repeats)
    return _by_pipeline({names[label]: times for label, times in wall.items()}, pipelines), _by_pipeline(
        {key: times[1:] for key, times in cpu.items()},  # the first call is not counted
        pipelines,
    )


def _metered(work: Work, seconds: list[float]) -> Work:
    """The work, which notes the processor time that all threads of this process took meanwhile."""

    def run() -> None:
        begun = time.process_time()
        work()
        seconds.append(time.process_time() - begun)

    return run


def _by_pipeline(times: Mapping[tuple[str, str], list[float]], pipelines: Mapping[str, Pipeline]) -> dict[str, Times]:
    return {name: {part: times.get((name, part), times[DEFAULT, part]) for part in PARTS} for name in pipelines}


def _milliseconds(times: Mapping[str, Times]) -> dict[str, dict[str, float]]:
    return {name: {part: 1000 * median(seconds) for part, seconds in parts.items()} for name, parts in times.items()}


def _ratios(wall: Mapping[str, Times], batches: Times) -> dict[str, dict[str, float]]:
    """Of every pair of pipelines how many times faster the later one is."""
    return {
        f"{fast} than {slow}": {
            **{part: median_ratio(wall[slow][part], wall[fast][part]) for part in PARTS},
            "in_batches": median_ratio(batches[slow], batches[fast]),
        }
        for slow, fast in combinations(wall, 2)
    }


def _processes(subject: Subject, settings: EncodeBenchSettings) -> dict[str, dict[str, Any]]:
    if settings.device != "cpu":
        return {}
    return {
        engine: measure_process(subject.bundle, engine, subject.sample, starts=settings.starts, encodes=ENCODES)
        for engine in (DEFAULT, INT8)
    }


def _targets(
    wall: Mapping[str, Times], cpu: Mapping[str, Times], processes: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """What an engine in integers is meant to reach: measured, target, whether it is met."""
    int8, fp32, process = wall[INT8], wall[DEFAULT], processes[INT8]
    reading = [sum(parts) for parts in zip(*(cpu[INT8][part] for part in READING), strict=True)]
    at_least = {
        "int8 end to end, times the baseline": (median_ratio(wall[BASELINE]["end_to_end"], int8["end_to_end"]), 8.0),
        "int8 backbone, times onnx-fp32": (median_ratio(fp32["backbone"], int8["backbone"]), 3.0),
        "int8 end to end, times onnx-fp32": (median_ratio(fp32["end_to_end"], int8["end_to_end"]), 2.5),
    }
    at_most = {
        "graph encoder, share of int8 end to end": (median_ratio(int8["encoder"], int8["end_to_end"]), 0.05),
        "decode and crops, share of int8 processor time": (median_ratio(reading, cpu[INT8]["end_to_end"]), 0.15),
        "memory of a served int8 encoder, MB": (process["peak_memory_mb"], 600.0),
        "int8 cold start to first embedding, s": (process["cold_start_s"], 2.0),
    }
    return {
        **{name: {"measured": value, "target": goal, "met": value >= goal} for name, (value, goal) in at_least.items()},
        **{name: {"measured": value, "target": goal, "met": value <= goal} for name, (value, goal) in at_most.items()},
    }


def _notes(settings: EncodeBenchSettings) -> str:
    words = "" if settings.weights is None else f"weights: {settings.weights}; "
    if settings.device == "cuda":
        return f"{words}convolutions of the baseline may use TF32, PyTorch's default; engines in fp32 do not"
    return (
        f"{words}ranges of onnx-int8 from {CALIBRATION.crops} random crops, all layers in integers that may be: neither"
        " changes the speed, and its answers are not judged here"
    )
