"""The client of a served encoder: `Client` for ordinary programs, `AsyncClient` for event loops.

Importing it loads no library of a server's; `pip install 'chextriev[client]'` brings what talks to one.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from chextriev.hits import Hit
from chextriev.radiograph_file import RadiographFile
from chextriev.serving.client.answers import Answer
from chextriev.serving.client.client import Client
from chextriev.serving.client.connection import Connection, KeepAlive
from chextriev.serving.client.deadline import Deadline
from chextriev.serving.client.in_process import InProcessTransport
from chextriev.serving.client.retry import RetryPolicy
from chextriev.serving.client.sources import Source
from chextriev.serving.client.tls import Tls
from chextriev.serving.client.transport import AsyncTransport, Call, ModelDescription, Transport

if TYPE_CHECKING:
    from chextriev.serving.client.adapters import Blocking, Threaded
    from chextriev.serving.client.aio import AsyncClient

__all__ = [
    "Answer",
    "AsyncClient",
    "AsyncTransport",
    "Blocking",
    "Call",
    "Client",
    "Connection",
    "Deadline",
    "Hit",
    "InProcessTransport",
    "KeepAlive",
    "ModelDescription",
    "RadiographFile",
    "RetryPolicy",
    "Source",
    "Threaded",
    "Tls",
    "Transport",
]

_LATER = {"AsyncClient": "aio", "Blocking": "adapters", "Threaded": "adapters"}
"""Names that import asyncio, which a program of threads never needs."""


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
