"""HTTP without TLS, with a deadline that a server cannot stretch by sending a byte now and then."""

import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from threading import Event, Timer

MOST_BYTES = 4_000_000
"""Of an answer that are read."""


@dataclass(frozen=True)
class HttpAnswer:
    """Status 0 and the reason in `text` where no HTTP server answered. `waits`: connected, but no answer in time."""

    status: int
    text: str = ""
    content: bytes = b""
    headers: Mapping[str, str] | None = None
    waits: bool = False

    @property
    def closed(self) -> bool:
        """Whether there is nothing here for us: no server, or one (Triton or a proxy) that keeps it from us."""
        return self.status in (0, 401, 403, 404, 405)


def http_request(
    address: tuple[str, int], line: str, body: bytes, headers: Mapping[str, str], *, timeout_s: float
) -> HttpAnswer:
    """Send a request, `line` being its verb and path, and read the answer.

    A Content-Length among the headers is sent as it is, whatever the body's.
    """
    verb, path = line.split(" ")
    end = time.monotonic() + timeout_s
    connection = HTTPConnection(*address, timeout=timeout_s)
    try:
        connection.connect()
    except OSError as error:
        return HttpAnswer(0, error.strerror or "no answer")
    late = Event()
    watch = Timer(max(0.0, end - time.monotonic()), _hang_up, [connection.sock, late])
    watch.start()
    try:
        connection.putrequest(verb, path)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        content = answer.read(MOST_BYTES)
    except TimeoutError:
        return HttpAnswer(0, "no answer in time", waits=True)
    except (OSError, HTTPException) as error:
        words = "no answer in time" if late.is_set() else f"no HTTP ({type(error).__name__})"
        return HttpAnswer(0, words, waits=late.is_set())
    finally:
        watch.cancel()
        connection.close()
    return HttpAnswer(answer.status, content.decode("utf-8", "replace"), content, dict(answer.getheaders()))


def _hang_up(connected: socket.socket, late: Event) -> None:
    late.set()
    with suppress(OSError):
        connected.shutdown(socket.SHUT_RDWR)
