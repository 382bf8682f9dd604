"""The served encoder under load that does not wait: rising shares of saturation, then for a long time."""

import asyncio
from typing import Any

from chextriev.serving.bench.arrivals import Arrivals, evenly_spaced, poisson
from chextriev.serving.bench.open_loop import Sent, send_when_due, summarise
from chextriev.serving.bench.server_memory import MemoryWatch
from chextriev.serving.bench.server_statistics import read_statistics, statistics_after, work_between
from chextriev.serving.bench.settings import ServeBenchSettings
from chextriev.serving.client import AsyncClient, Connection, Deadline, RadiographFile, RetryPolicy
from chextriev.serving.local_server import LocalServer
from chextriev.serving.wire import encoder_name

LONG_LOAD = 0.7
"""Share of saturation of the long run."""
EVEN_LOAD = 0.8
"""Share of saturation of arrivals that are evenly spaced."""
DEADLINE_S = 60.0
MEMORY_SAMPLES = 120
"""At most, in the long run."""


def measure_rising_load(
    server: LocalServer, file: RadiographFile, saturation_per_s: float, settings: ServeBenchSettings, *, system: str
) -> dict[str, Any]:
    """Latencies at each load, by kind of arrivals; see `summarise`. server: what each model did meanwhile."""
    seconds, poissons = settings.load_s, []
    for seed, load in enumerate(settings.loads, start=settings.seed):
        arrivals = poisson(load * saturation_per_s, seconds, seed=seed)
        poissons.append(
            {"load": load, "offered_per_s": load * saturation_per_s, **_run(server, file, arrivals, system=system)}
        )
    even = evenly_spaced(EVEN_LOAD * saturation_per_s, 2 * seconds)
    return {
        "poisson": poissons,
        "evenly_spaced": {
            "load": EVEN_LOAD,
            "offered_per_s": EVEN_LOAD * saturation_per_s,
            **_run(server, file, even, system=system),
        },
    }


def measure_long_load(
    server: LocalServer, file: RadiographFile, saturation_per_s: float, settings: ServeBenchSettings, *, system: str
) -> dict[str, Any]:
    """Poisson arrivals for many minutes, and the memory of the server's processes meanwhile."""
    seconds = 60 * settings.minutes
    arrivals = poisson(LONG_LOAD * saturation_per_s, seconds, seed=settings.seed + 1000)
    every_s = max(1.0, seconds / MEMORY_SAMPLES)
    with MemoryWatch(lambda: [process.pid for process in server.processes], every_s=every_s) as memory:
        found = _run(server, file, arrivals, system=system)
    return {
        "load": LONG_LOAD,
        "offered_per_s": LONG_LOAD * saturation_per_s,
        "minutes": settings.minutes,
        **found,
        "memory": memory.summary(),
    }


def _run(server: LocalServer, file: RadiographFile, arrivals: Arrivals, *, system: str) -> dict[str, Any]:
    before = read_statistics(server.grpc)
    sent = asyncio.run(_send(server.grpc, file, arrivals, system))
    answered = 1 + sum(one.error is None for one in sent)  # one goes before the load
    after = statistics_after(server.grpc, before, encoder_name(system), answered=answered)
    work = work_between(before, after)
    return {**summarise(sent), "server": work}


async def _send(address: str, file: RadiographFile, arrivals: Arrivals, system: str) -> list[Sent]:
    once = Connection(retry=RetryPolicy(tries=1))  # a retry would hide what became of a request
    async with AsyncClient(
        f"grpc://{address}", system=system, connection=once, deadline=Deadline(DEADLINE_S)
    ) as client:
        await client.embed(file)
        return await send_when_due(lambda: client.embed(file), arrivals)
