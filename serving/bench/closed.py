"""The served encoder against the same encoder in this process, in turn: one radiograph at a time, and at saturation."""

import math
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from chextriev.encoder import Encoder
from chextriev.machine import median_ratio, time_in_turn
from chextriev.serving.bench.open_loop import percentiles
from chextriev.serving.bench.settings import ServeBenchSettings
from chextriev.serving.bench.subject import Query, ServeSubject
from chextriev.serving.client import Client, RadiographFile
from chextriev.serving.local_server import LocalServer

IN_PROCESS = "in process"
TRANSPORTS = ("grpc", "http", "shm")
_TIMES = 2  # radiographs in a piece of work, times the concurrency, so that it has a middle between start and end

Work = Callable[[], object]


def clients(server: LocalServer, system: str, stack: ExitStack) -> dict[str, Client]:
    """A client for each way to a server, closed with the stack."""
    addresses = {"grpc": f"grpc://{server.grpc}", "http": f"http://{server.http}", "shm": f"shm://{server.grpc}"}
    return {name: stack.enter_context(Client(addresses[name], system=system)) for name in TRANSPORTS}


def measure_latency(
    encoder: Encoder, ways: Mapping[str, Client], queries: Mapping[str, Query], *, turns: int
) -> dict[str, Any]:
    """Milliseconds of one radiograph, from its file's bytes to its embedding, by query and way.

    added_ms: median of the differences to the same turn in this process.
    """
    return {name: _latency(encoder, ways, query.file, turns) for name, query in queries.items()}


def _latency(encoder: Encoder, ways: Mapping[str, Client], file: RadiographFile, turns: int) -> dict[str, Any]:
    works: dict[str, Work] = {IN_PROCESS: lambda: encoder.encode([file.decode()])}
    works |= {name: _embedding(client, file) for name, client in ways.items()}
    seconds = time_in_turn(works, repeats=turns)
    found: dict[str, Any] = {}
    for name, times in seconds.items():
        found[name] = percentiles([1000 * taken for taken in times])
        if name != IN_PROCESS:
            pairs = zip(times, seconds[IN_PROCESS], strict=True)
            found[name]["added_ms"] = 1000 * median(served - alone for served, alone in pairs)
    return found


def measure_saturation(
    encoder: Encoder, client: Client, subject: ServeSubject, pids: Iterable[int], settings: ServeBenchSettings
) -> dict[str, Any]:
    """Radiographs/s of the stream in this process and of the server asked in a closed loop, decoding included.

    Medians over the repeats; triton_over_in_process: of the best concurrency, the median over neighbouring repeats.
    cpu_ms: processor time for a radiograph, of this process or of the server's.
    """
    count = max(_TIMES * max(settings.concurrency), _radiographs(encoder, subject.file, settings.work_s))
    works: dict[str, Work] = {IN_PROCESS: lambda: _drain(encoder.stream([subject.file.decode] * count))}
    works |= {str(many): _stream(client, subject.file, count, many) for many in settings.concurrency}
    meters = {name: _Meter(work, [os.getpid()] if name == IN_PROCESS else pids) for name, work in works.items()}
    seconds = time_in_turn(meters, repeats=settings.repeats)
    rates = {name: count / median(times) for name, times in seconds.items()}
    best = max((name for name in rates if name != IN_PROCESS), key=rates.__getitem__)
    return {
        "radiographs": count,
        "in_process_per_s": rates.pop(IN_PROCESS),
        "triton_per_s": rates,
        "best_concurrency": int(best),
        "triton_over_in_process": median_ratio(seconds[IN_PROCESS], seconds[best]),
        "cpu_ms": {name: 1000 * median(meter.cpu_s[1:]) / count for name, meter in meters.items()},
    }


class _Meter:
    """A piece of work that notes how much processor time some processes took meanwhile."""

    def __init__(self, work: Work, pids: Iterable[int]) -> None:
        self._work, self._pids = work, tuple(pids)
        self.cpu_s: list[float] = []

    def __call__(self) -> None:
        begun = sum(map(_cpu_s, self._pids))
        self._work()
        self.cpu_s.append(sum(map(_cpu_s, self._pids)) - begun)


def _cpu_s(pid: int) -> float:
    """Seconds of processor time that a process has had, in it and in the system for it (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _radiographs(encoder: Encoder, file: RadiographFile, work_s: float) -> int:
    """How many are encoded in so many seconds, the first ones not counted."""
    works = {"a few": lambda: _drain(encoder.stream([file.decode] * 8))}
    (taken,) = time_in_turn(works, repeats=1)["a few"]
    return math.ceil(8 * work_s / taken)


def _embedding(client: Client, file: RadiographFile) -> Work:
    return lambda: client.embed(file)


def _stream(client: Client, file: RadiographFile, count: int, concurrency: int) -> Work:
    return lambda: _drain(client.stream([file] * count, concurrency=concurrency))


def _drain(stream: Iterable[object]) -> None:
    for _ in stream:
        pass
