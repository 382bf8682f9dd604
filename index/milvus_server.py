"""A connection to Milvus: a cluster by its address, or milvus-lite in this process by the path of a file *.db."""

import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from chextriev.errors import (
    BusyIndex,
    ChextrievError,
    DeadlineExpired,
    InvalidSetting,
    RequestRefused,
    ServerUnavailable,
    UnknownCollection,
)
from chextriev.optional import require
from chextriev.progress import track_batches

EXTRA = "milvus"
TIMEOUT_S = 30.0
POLL_S = 0.5
FLUSH_S = 600.0
STALLED_S = 3600.0
_SCHEMES = ("http", "https", "tcp")
_NOT_CONNECTED = 2
_NO_COLLECTION = 100
_LITE = "milvus_lite"

# How many connections of this process use each file of milvus-lite, whose server the last one stops.
_users: Counter[str] = Counter()
_users_lock = threading.Lock()


@dataclass(frozen=True, eq=False)
class Connection:
    """An open client. Safe to use from several threads; not after a fork, because gRPC's threads stay behind.

    address: for messages, without credentials. file: of milvus-lite, None for a server. timeout_s: of every call.
    """

    client: Any
    address: str
    file: Path | None
    timeout_s: float

    def call(self, name: str, *arguments: Any, timeout_s: float | None = None, **options: Any) -> Any:
        """Call a method of the client; what it raises comes as an error of this package, without the request."""
        seconds = timeout_s or self.timeout_s
        return _explained(self.address, getattr(self.client, name), *arguments, timeout=seconds, **options)

    def wait(self, label: str, done: Callable[[], int], total: int) -> None:
        """Until `done()` of `total` is all; ServerUnavailable where nothing moves for an hour."""
        steps = self._steps(label, done, total)
        for _ in track_batches(steps, label, size=int, total=total, unit="vector"):
            pass

    def _steps(self, label: str, done: Callable[[], int], total: int) -> Iterator[int]:
        moved, last = time.monotonic(), 0
        while last < total:
            now = done()
            if now > last:
                yield now - last
                moved, last = time.monotonic(), now
            elif time.monotonic() - moved > STALLED_S:
                raise ServerUnavailable(
                    f"{self.address}: {label} stands at {now:,} of {total:,} for {STALLED_S / 60:.0f} minutes; look"
                    " at the server's log and its disk"
                )
            else:
                time.sleep(POLL_S)

    def close(self) -> None:
        """Give the connection back; the last one to a file of milvus-lite stops its server and frees its lock."""
        if self.client._handler is None:
            return
        self.client.close()
        if self.file is not None:
            _release(self.file)


def connect(uri: str, *, token: str | None = None, timeout_s: float = TIMEOUT_S, create: bool = False) -> Connection:
    """Open "http://host:19530" (or https, tcp) or the path of a file "*.db", which only `create` makes.

    token: "user:password" or an API key. Raises InvalidSetting for another uri, ServerUnavailable where nothing
    answers within `timeout_s`, BusyIndex where another process has the file, UnknownCollection where there is none.
    """
    pymilvus = require("pymilvus", extra=EXTRA)
    # It logs every refused request whole, with the filter and so with ids of patients; what it raises is enough.
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL + 1)
    if not timeout_s > 0:
        raise InvalidSetting(f"timeout = {timeout_s} s; give a positive number of seconds")
    file = _lite_file(uri, create)
    address = uri if file is not None else _without_credentials(uri)
    try:
        if file is not None:
            _start(file)
            uri = str(file)
        client = _explained(address, pymilvus.MilvusClient, uri, token=token or "", timeout=timeout_s)
    except ChextrievError:
        if file is not None:
            _release(file)
        raise
    return Connection(client, address, file, timeout_s)


def _lite_file(uri: str, create: bool) -> Path | None:
    """The absolute path of milvus-lite's file (a directory, in truth), None where the uri is an address."""
    if urlsplit(uri).scheme in _SCHEMES:
        return None
    if not uri.endswith(".db"):
        raise InvalidSetting(
            f"Milvus uri {uri!r}; give an address such as 'http://milvus.example:19530', or the path of a file that"
            " ends in .db for the embedded milvus-lite"
        )
    file = Path(uri).absolute()
    if not file.parent.is_dir():
        raise InvalidSetting(f"there is no folder {file.parent} for milvus-lite's file {file.name}; make it first")
    if not create and not file.exists():
        raise UnknownCollection(
            uri, ["(none built yet: chextriev index build --backend milvus makes one)"], where="milvus-lite"
        )
    return file


def _without_credentials(uri: str) -> str:
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _start(file: Path) -> None:
    """Start the server of this file unless it runs in this process; count its users."""
    manager = require(f"{_LITE}.server_manager", extra=EXTRA).server_manager_instance
    log = logging.getLogger(_LITE)
    log.setLevel(logging.CRITICAL + 1)  # it prints tracebacks of what it then answers as an error
    with _users_lock:
        _users[str(file)] += 1
        if manager.start_and_get_uri(str(file)) is None:
            raise BusyIndex(
                f"milvus-lite cannot open {file}: another process has it open, or it is not a folder of milvus-lite;"
                " one process at a time uses such a file, several need a Milvus server"
            )


def _release(file: Path) -> None:
    manager = require(f"{_LITE}.server_manager", extra=EXTRA).server_manager_instance
    with _users_lock:
        _users[str(file)] -= 1
        if not _users[str(file)]:
            del _users[str(file)]
            manager.release_server(str(file))


def _explained(address: str, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    exceptions = require("pymilvus.exceptions", extra=EXTRA)
    rpc_error = require("pymilvus.decorators", extra=EXTRA).grpc.RpcError
    try:
        return call(*arguments, **options)
    except exceptions.MilvusException as error:
        code, words = error.code, error.message
    except rpc_error as error:
        code, words = error.code(), str(error.details())
    status = getattr(code, "name", "")
    words = re.sub(r"\s+", " ", str(words).split("\n")[0])[:200]
    if status == "DEADLINE_EXCEEDED":
        raise DeadlineExpired(f"{address} did not answer in time; ask for less at once, or give it longer") from None
    if status == "UNAVAILABLE" or code == _NOT_CONNECTED:
        raise ServerUnavailable(
            f"nothing that speaks Milvus answers at {address}; check the address, that the server runs and its token"
        ) from None
    if code == _NO_COLLECTION:
        raise UnknownCollection("of this request", ["one that the server holds"], where=address) from None
    raise RequestRefused(f"{address} refuses the request: {words}") from None
