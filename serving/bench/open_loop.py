"""Load that does not wait for answers, as that of many users: requests are sent when they are due.

A generator that sends the next request when the last one was answered asks a slow server less often, and then reports
the latency that few of its users would see (coordinated omission). Here a request's latency counts from the moment that
it was due, so that neither a queue nor a generator that comes late can hide.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from chextriev.errors import ServingError

Send = Callable[[], Awaitable[object]]
PERCENTILES = (50, 95, 99)


@dataclass(frozen=True)
class Sent:
    """One request. Moments are seconds from the beginning of the load. error: its kind, or None if it was answered."""

    due_s: float
    sent_s: float
    done_s: float
    error: str | None = None

    @property
    def latency_s(self) -> float:
        """From when it was due."""
        return self.done_s - self.due_s


async def send_when_due(send: Send, arrivals_s: Iterable[float]) -> list[Sent]:
    """Call `send` for each arrival when it is due, whatever became of those before, and wait for all answers.

    A ServingError is the request's result; any other error ends the load.
    """
    loop = asyncio.get_running_loop()
    begun = loop.time()

    async def one(due_s: float) -> Sent:
        sent_s, error = loop.time() - begun, None
        try:
            await send()
        except ServingError as found:
            error = type(found).__name__
        return Sent(due_s, sent_s, loop.time() - begun, error)

    async with asyncio.TaskGroup() as group:
        tasks = []
        for due_s in arrivals_s:
            await asyncio.sleep(begun + float(due_s) - loop.time())
            tasks.append(group.create_task(one(float(due_s))))
    return [task.result() for task in tasks]


def summarise(sent: Sequence[Sent]) -> dict[str, Any]:
    """Latencies in ms, counted from when requests were due, of those that were answered; errors by kind.

    answered_per_s: over the time from the beginning to the last answer. late_ms_p99: by how much the generator itself
    came late, which the latencies hold.
    """
    answered = [request for request in sent if request.error is None]
    last_s = max((request.done_s for request in sent), default=0.0)
    return {
        "requests": len(sent),
        "errors": dict(Counter(request.error for request in sent if request.error is not None)),
        "answered_per_s": len(answered) / last_s if last_s else 0.0,
        "latency_ms": percentiles([1000 * request.latency_s for request in answered]),
        "late_ms_p99": percentiles([1000 * (request.sent_s - request.due_s) for request in sent]).get("p99"),
    }


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """p50, p95, p99 and the largest; each is a value that was measured, the first that so many do not exceed.

    None of them where nothing was measured. Of fewer than 100 values, p99 is the largest.
    """
    if not values:
        return {}
    found = np.percentile(values, PERCENTILES, method="inverted_cdf")
    return {
        **{f"p{percent}": float(value) for percent, value in zip(PERCENTILES, found, strict=True)},
        "max": max(values),
    }
