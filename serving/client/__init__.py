"""The client of a served encoder: `Client` for ordinary programs, `AsyncClient` for event loops.

Importing it loads no library of a server's; `pip install 'chextriev[client]'` brings what talks to one.
"""

from chextriev.hits import Hit
from chextriev.radiograph_file import RadiographFile
from chextriev.serving.client.adapters import Blocking, Threaded
from chextriev.serving.client.aio import AsyncClient
from chextriev.serving.client.answers import Answer
from chextriev.serving.client.client import Client
from chextriev.serving.client.connection import Connection, KeepAlive
from chextriev.serving.client.deadline import Deadline
from chextriev.serving.client.in_process import InProcessTransport
from chextriev.serving.client.retry import RetryPolicy
from chextriev.serving.client.sources import Source
from chextriev.serving.client.tls import Tls
from chextriev.serving.client.transport import AsyncTransport, Call, ModelDescription, Transport

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
