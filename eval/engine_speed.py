"""How fast one engine answers, how much memory it takes and how long it takes to start.

An artefact of kind "engine speed": `speed.json`, and a recipe that names the engine's files, the machine and what was
measured. Measured once; a run that goes on takes what is there.
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median

import numpy as np
import numpy.typing as npt

from chextriev.artifacts import Recipe, find_current, publishing, seal
from chextriev.errors import InvalidSetting
from chextriev.eval.engine_identity import Subject
from chextriev.eval.engine_process import ImageRequest, ProcessAnswer, ProcessRequest
from chextriev.progress import track
from chextriev.study_table import StudyTable

KIND = "engine speed"
SPEED_FILE = "speed.json"
WARM_UP = 3
"""Encodes before the first that is timed."""

LIMIT_S = 600
"""A fresh process that takes longer is ended, and the report says so."""

DEFINITIONS = {
    "latency": "a radiograph's pixels in memory -> embedding (crops, backbone, encoder), one at a time; the first"
    f" {WARM_UP} encodes are not timed",
    "radiographs_per_s": "image files -> embeddings in one stream: decoding, crops and inference overlap; opening the"
    " engine, a first batch and writing results are not timed",
    "cold_start": "start of a fresh process -> first embedding: Python, imports, verifying and opening the engine,"
    " decoding one image; files may be in the system's cache",
    "peak_memory": "largest resident memory of a fresh process that encodes radiographs one at a time, Python and"
    " libraries included, memory of a GPU not",
    "files": "the files that the engine runs",
}
"""What each number means, as the JSON says it."""


@dataclass(frozen=True)
class SpeedSettings:
    """latency_radiographs: how many are timed, fewer where the split has fewer. processes: fresh ones to start.
    process_radiographs: how many each of them encodes."""

    latency_radiographs: int = 50
    processes: int = 3
    process_radiographs: int = 8

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value < 1:
                raise InvalidSetting(f"eval engines: {name} is {value}; at least 1 is needed")


@dataclass(frozen=True)
class EngineSpeed:
    """Milliseconds at batch 1, over `latency_radiographs`; cold start (median) and memory (largest) of `processes`.

    cold_start_s and peak_memory_bytes are None where every fresh process failed; `remarks` says why.
    """

    p50_ms: float
    p95_ms: float
    latency_radiographs: int
    cold_start_s: float | None
    peak_memory_bytes: int | None
    processes: int
    process_radiographs: int
    remarks: tuple[str, ...] = ()


def measure_or_reuse(
    subject: Subject, readable: npt.NDArray[np.int64], settings: SpeedSettings
) -> tuple[EngineSpeed, bool]:
    """The speed of an opened engine, and whether it was there. readable: rows of the split that have an embedding."""
    target = subject.folder / "speed"
    recipe = Recipe({**subject.recipe.settings, "speed": asdict(settings)}, subject.recipe.parents)
    if find_current(target, KIND, recipe) is not None:
        content = json.loads((target / SPEED_FILE).read_text())
        return EngineSpeed(**{**content, "remarks": tuple(content["remarks"])}), True
    speed = _measure(subject, readable, settings)
    with publishing(target, KIND) as scratch:
        (scratch / SPEED_FILE).write_text(json.dumps(asdict(speed), indent=2, allow_nan=False) + "\n")
        seal(scratch, KIND, recipe)
    return speed, False


def _measure(subject: Subject, readable: npt.NDArray[np.int64], settings: SpeedSettings) -> EngineSpeed:
    times_ms = _latency_ms(subject, _spread(readable, settings.latency_radiographs))
    images = _image_requests(subject.table, _spread(readable, settings.process_radiographs))
    answers, remarks = _fresh_processes(subject, images, settings.processes)
    p50, p95 = np.quantile(times_ms, [0.5, 0.95])
    return EngineSpeed(
        p50_ms=float(p50),
        p95_ms=float(p95),
        latency_radiographs=len(times_ms),
        cold_start_s=median(answer.cold_start_s for answer in answers) if answers else None,
        peak_memory_bytes=max((answer.peak_memory_bytes for answer in answers), default=None),
        processes=settings.processes,
        process_radiographs=len(images),
        remarks=tuple(dict.fromkeys(remarks)),
    )


def _spread(rows: npt.NDArray[np.int64], wanted: int) -> list[int]:
    """At most so many of the rows, at even distances."""
    places = np.linspace(0, len(rows) - 1, min(len(rows), wanted)).round().astype(np.int64)
    return [int(row) for row in rows[places]]


def _latency_ms(subject: Subject, rows: Sequence[int]) -> list[float]:
    """One radiograph is in memory at a time; reading it is not timed."""
    encoder, times = subject.encoder, []
    for _ in range(WARM_UP):
        encoder.encode([subject.table.radiograph(rows[0])])
    for row in track(rows, f"latency of {encoder.engine}", unit="radiograph"):
        radiograph = subject.table.radiograph(row)
        begun = time.perf_counter()
        encoder.encode([radiograph])
        times.append(1000 * (time.perf_counter() - begun))
    return times


def _image_requests(table: StudyTable, rows: Sequence[int]) -> list[ImageRequest]:
    return [
        ImageRequest(str(table.image_id[row]), str(table.image_path(row)), table.boxes_xyxy[row].tolist())
        for row in rows
    ]


def _fresh_processes(
    subject: Subject, images: Sequence[ImageRequest], count: int
) -> tuple[list[ProcessAnswer], list[str]]:
    """Answers of the processes that worked, and what became of those that did not."""
    encoder = subject.encoder
    bundle = str(encoder.bundle.directory.resolve())
    answers, remarks = list[ProcessAnswer](), list[str]()
    for _ in track(range(count), f"fresh processes with {encoder.engine}", unit="process"):
        answer = _ask(ProcessRequest(bundle, encoder.engine, subject.device, images, time.monotonic()))
        if isinstance(answer, str):
            remarks.append(answer)
        else:
            answers.append(answer)
    return answers, remarks


def _ask(request: ProcessRequest) -> ProcessAnswer | str:
    """The answer of a fresh process, or why there is none."""
    command = [sys.executable, "-m", "chextriev.eval.engine_process"]
    try:
        ended = subprocess.run(
            command, input=json.dumps(asdict(request)), capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"a fresh process was ended after {LIMIT_S} s"
    if ended.returncode != 0:
        said = ended.stderr.strip().splitlines()
        return f"a fresh process ended with status {ended.returncode}" + (f": {said[-1]}" if said else "")
    return ProcessAnswer(**json.loads(ended.stdout.strip().splitlines()[-1]))
