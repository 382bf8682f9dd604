"""A DICOM file to its ten most similar cases through a local Triton: where the time goes, stage by stage."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from chextriev.bundle import DEFAULT, open_bundle
from chextriev.errors import InvalidSetting
from chextriev.index.search import Index, open_index
from chextriev.machine import describe_machine
from chextriev.quality import check_quality
from chextriev.radiograph import raw_image
from chextriev.radiograph_file import RadiographFile
from chextriev.reading import read_image
from chextriev.serving.bench.sample_dicom import write_dicom
from chextriev.serving.bench.server_statistics import Counts, read_statistics, statistics_after
from chextriev.serving.client import Client
from chextriev.serving.local_server import LocalServer
from chextriev.serving.repository import build_repository
from chextriev.serving.repository_settings import RepositorySettings
from chextriev.serving.wire import LOCALIZER_MODELS, encoder_name

READ, CHECK, WAY, SEARCH, WHOLE = (
    "read the DICOM file",
    "check its quality",
    "the way there and back",
    "search",
    "whole",
)
K = 10
_WARM = 2
"""Queries before the first that counts."""


@dataclass(frozen=True)
class QueryBenchSettings:
    """What is measured. image: a DICOM, JPEG or PNG file; None writes a DICOM file of 2,500 x 3,000 pixels of 12 bits.

    engine, localizer_engine: of the two bundles. repeats: queries, one at a time.
    """

    bundle: Path
    localizer: Path
    index: Path
    image: Path | None = None
    engine: str = DEFAULT
    localizer_engine: str = DEFAULT
    repeats: int = 30

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise InvalidSetting(f"bench query: repeats is {self.repeats}; at least 1 is needed")


def bench_query(settings: QueryBenchSettings) -> dict[str, Any]:
    """Serve both bundles on this machine and ask again and again; JSON-able, with a table of lines."""
    bundle, localizer = open_bundle(settings.bundle), open_bundle(settings.localizer)
    index = open_index(settings.index)
    with TemporaryDirectory() as folder:
        image = settings.image or write_dicom(Path(folder) / "radiograph.dcm", height=3000, width=2500)
        repository = Path(folder) / "repository"
        chosen = RepositorySettings(engine=settings.engine, localizer_engine=settings.localizer_engine)
        build_repository([bundle], repository, chosen, localizer=localizer)
        with LocalServer(repository) as server:
            turns = [_one_query(server, image, index, bundle.card.system) for _ in range(_WARM + settings.repeats)]
        size = {"bytes": image.stat().st_size, "pixels": list(read_image(image).pixels.shape[::-1])}
    measured = turns[_WARM:]
    stages = {name: _summary([turn[name] for turn in measured]) for name in measured[0]}
    content = {
        "settings": {
            "image": "made up" if settings.image is None else "given",
            **size,
            "repeats": settings.repeats,
            "engine": settings.engine,
            "localizer_engine": settings.localizer_engine,
            "radiographs in the index": len(index),
            "k": K,
        },
        "machine": describe_machine(),
        "encoder": {"system": bundle.card.system, "backbone": bundle.card.backbone},
        "stages_ms": stages,
    }
    return {**content, "table": _table(stages)}


def _one_query(server: LocalServer, image: Path, index: Index, system: str) -> dict[str, float]:
    """Milliseconds of each stage of one query; those of the server are its own account."""
    spent: dict[str, float] = {}
    before = read_statistics(server.grpc)
    with Client(server.grpc, system=system) as client:
        client.encoder_digest()  # connected, and the model described, as a program that asks more than once is
        with _timed(spent, WHOLE):
            with _timed(spent, READ):
                read = read_image(image)
            with _timed(spent, CHECK):
                check_quality(read.pixels)
            with _timed(spent, WAY):
                found = client.embed(RadiographFile(read.image_id, raw_image(read.pixels), None))
            with _timed(spent, SEARCH):
                index.search(found, K)
    after = statistics_after(server.grpc, before, encoder_name(system), answered=1)
    steps = {name: _milliseconds(before, after, name) for name in _steps(before, after)}
    way = spent[WAY] - sum(steps.values())
    return {READ: spent[READ], CHECK: spent[CHECK], **steps, WAY: way, SEARCH: spent[SEARCH], WHOLE: spent[WHOLE]}


def _steps(before: Mapping[str, Counts], after: Mapping[str, Counts]) -> list[str]:
    """The models that answered, in the order of their work; ensembles only pass on and are left out."""
    worked = [name for name in after if after[name].executions > (before[name].executions if name in before else 0)]
    first = [name for name in LOCALIZER_MODELS if name in worked]
    kinds = ("radiograph_preprocess", "region_backbone", "encoder_")
    return first + [name for kind in kinds for name in worked if name.startswith(kind)]


def _milliseconds(before: Mapping[str, Counts], after: Mapping[str, Counts], name: str) -> float:
    """Of a model between two readings: waiting, taking in, running and giving out."""
    then = before[name].times_ns if name in before else {}
    return sum(spent - then.get(key, 0) for key, spent in after[name].times_ns.items()) / 1e6


@contextmanager
def _timed(spent: dict[str, float], name: str) -> Iterator[None]:
    begun = time.perf_counter()
    yield
    spent[name] = 1000 * (time.perf_counter() - begun)


def _summary(values: Sequence[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {"p50": median(ordered), "least": ordered[0], "most": ordered[-1]}


def _table(stages: Mapping[str, Mapping[str, float]]) -> list[str]:
    width = max(map(len, stages))
    head = f"{'stage':{width}}  {'p50':>8} {'least':>8} {'most':>8}  ms"
    return [
        head,
        *(f"{name:{width}}  " + " ".join(f"{ms:8.1f}" for ms in row.values()) for name, row in stages.items()),
    ]
