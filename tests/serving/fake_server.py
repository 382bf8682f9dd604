"""A server in a few lines, behind the transport's interface: what it answers says which image it was asked about."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import numpy as np
import pytest

from chextriev.bundle import TensorSpec
from chextriev.errors import RequestRefused, ServingError, UnknownModel
from chextriev.radiograph_file import RadiographFile
from chextriev.serving.client import (
    AsyncClient,
    Call,
    Client,
    Connection,
    Hit,
    ModelDescription,
    RetryPolicy,
    Threaded,
)
from chextriev.serving.client.transport import Tensors
from tests.tiny import boxes

DIGEST = "d" * 64
OUTPUTS = (TensorSpec("embedding", ("B", 2), "float32"), TensorSpec("finding_logits", ("B", 9), "float32"))
HITS = (TensorSpec("hits", ("B", 1), "bytes"),)
AT_ONCE = Connection(retry=RetryPolicy(tries=4, first_s=0))
HIT = Hit("other", "study", None, 0.5, ("pneumonia",), "AP", "F", 61, 7)

both = pytest.mark.parametrize("kind", ["threads", "loop"])
"""Kinds of client, as `ask_client` takes them."""


def numbers(parts: list[Any]) -> list[int]:
    """Of the radiographs whose embeddings these are."""
    return [int(part.vectors[0, 0]) for part in parts]


def file(number: int) -> RadiographFile:
    """A radiograph whose embedding starts with this number; a negative one is refused."""
    return RadiographFile(f"secret-{number}", str(number).encode(), boxes())


class FakeServer:
    """Serves `chextriev_v6` and `index_v6`. fails: errors to raise before the first answers, in order."""

    address = "fake:8001"

    def __init__(self, *fails: ServingError) -> None:
        self.fails = list(fails)
        self.calls: list[Call] = []
        self.described: list[str] = []
        self.timeouts_s: list[float] = []
        self.models = {
            "chextriev_v6": ModelDescription("chextriev_v6", OUTPUTS, {"encoder_digest": DIGEST}),
            "index_v6": ModelDescription("index_v6", HITS, {"encoder_digest": DIGEST}),
        }
        self.hits = b"[]"
        self.closed = self.running = self.most_running = 0
        self._lock = threading.Lock()

    def describe(self, model: str, timeout_s: float) -> ModelDescription:
        self.described.append(model)
        if model not in self.models:
            raise UnknownModel(f"there is no model {model}")
        return self.models[model]

    def infer(self, call: Call, timeout_s: float) -> Tensors:
        with self._lock:
            self.calls.append(call)
            self.timeouts_s.append(timeout_s)
            self.running += 1
            self.most_running = max(self.most_running, self.running)
            fail = self.fails.pop(0) if self.fails else None
        try:
            if fail is not None:
                raise fail
            return self._answer(call)
        finally:
            with self._lock:
                self.running -= 1

    def close(self) -> None:
        self.closed += 1

    def _answer(self, call: Call) -> Tensors:
        if "vectors" in call.inputs:
            return {"hits": np.full((call.rows, 1), self.hits, np.object_)}
        numbers = [int(content) for content in call.inputs["image"][:, 0]]
        if min(numbers) < 0:
            raise RequestRefused(f"EmptyImage: image {numbers.index(min(numbers))}: every pixel is equal")
        embedding = np.array([[number, 1] for number in numbers], np.float32)
        return {"embedding": embedding, "finding_logits": np.zeros((call.rows, 9), np.float32)}


Ask = Callable[[Any], Any]


def ask_client(kind: str, server: FakeServer, ask: Ask, **settings: Any) -> Any:
    """What `ask` gets from a client of this kind, "threads" or "loop"; what is iterated becomes a list."""
    if kind == "threads":
        with Client(server, **settings) as client:
            found = ask(client)
            return list(found) if isinstance(found, Iterator) else found
    return asyncio.run(_ask_async(server, ask, settings))


async def _ask_async(server: FakeServer, ask: Ask, settings: dict[str, Any]) -> Any:
    async with AsyncClient(Threaded(server), **settings) as client:
        found = ask(client)
        return [item async for item in found] if isinstance(found, AsyncIterator) else await found
