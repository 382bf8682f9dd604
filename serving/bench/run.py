"""Everything that `chextriev bench serve` measures, in one run."""

from contextlib import ExitStack
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from chextriev.encoder import open_encoder
from chextriev.machine import describe_machine
from chextriev.serving.bench.closed import clients, measure_latency, measure_saturation
from chextriev.serving.bench.perf_analyzer import check_program, measure_perf_analyzer
from chextriev.serving.bench.rising import measure_long_load, measure_rising_load
from chextriev.serving.bench.settings import ServeBenchSettings
from chextriev.serving.bench.subject import ServeSubject, make_serve_subject
from chextriev.serving.bench.table import table_lines
from chextriev.serving.bench.targets import targets
from chextriev.serving.bench.wire_bytes import measure_wire
from chextriev.serving.environment import TRITON
from chextriev.serving.local_server import LocalServer
from chextriev.serving.repository import build_repository
from chextriev.serving.repository_settings import RepositorySettings

NOTES = (
    "threads of the engine in this process wait for work in a loop, those of a served engine asleep, so the server may"
    " be the faster one; saturation is the best closed loop, and loads are shares of it"
)


def bench_serve(settings: ServeBenchSettings) -> dict[str, Any]:
    """Export a bundle, start a local server of it and measure both; JSON-able, with a table of lines."""
    if settings.perf_analyzer is not None:
        check_program(settings.perf_analyzer)
    with TemporaryDirectory() as folder:
        subject = make_serve_subject(Path(folder), settings)
        repository = Path(folder) / "repository"
        build_repository([subject.bundle], repository, RepositorySettings(engine=settings.engine))
        with LocalServer(repository) as server:
            return measure_served(server, subject, settings)


def measure_served(server: LocalServer, subject: ServeSubject, settings: ServeBenchSettings) -> dict[str, Any]:
    """What `bench_serve` gives, of a server that runs."""
    card, system = subject.bundle.card, subject.bundle.card.system
    happened = len(server.events)
    encoder = open_encoder(subject.bundle, engine=settings.engine)
    with ExitStack() as stack:
        ways = clients(server, system, stack)
        latency = measure_latency(encoder, ways, subject.queries, turns=settings.turns)
        pids = [process.pid for process in server.processes]
        saturation = measure_saturation(encoder, ways["grpc"], subject, pids, settings)
    most_per_s = max(saturation["triton_per_s"].values())
    content: dict[str, Any] = {
        "settings": _without_paths(settings),
        "machine": describe_machine(),
        "versions": {"onnxruntime": metadata.version("onnxruntime"), "triton": TRITON.rpartition("=")[2]},
        "encoder": {"system": system, "backbone": card.backbone, "engine": settings.engine},
        "latency": latency,
        "saturation": saturation,
        "rising_load": measure_rising_load(server, subject.file, most_per_s, settings, system=system),
        "long_load": measure_long_load(server, subject.file, most_per_s, settings, system=system),
        "wire": measure_wire(server, subject.queries, system=system),
        "perf_analyzer": measure_perf_analyzer(server, subject.file, most_per_s, settings, system=system),
    }
    content["notes"] = NOTES
    content["server_events"] = [event.kind for event in server.events[happened:]]
    content["targets"] = targets(content)
    return {**content, "table": table_lines(content)}


def _without_paths(settings: ServeBenchSettings) -> dict[str, Any]:
    """The settings, where a file lies on this machine left out."""
    said = asdict(settings)
    return {
        **said,
        "bundle": "made up" if settings.bundle is None else "given",
        "perf_analyzer": bool(said["perf_analyzer"]),
    }
