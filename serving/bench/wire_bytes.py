"""Bytes that really travel for one radiograph, counted between client and server."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from chextriev.serving.bench.subject import Query
from chextriev.serving.client import AsyncClient, RadiographFile
from chextriev.serving.local_server import LocalServer

FLOAT_CROPS_BYTES = 18 * 3 * 224 * 224 * 4
"""The published form of a radiograph: its 18 crops in three equal channels of float32."""
_CHUNK = 1 << 16

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Relay:
    """Counts the bytes that pass between clients and a server."""

    def __init__(self) -> None:
        self.sent = self.received = 0
        self.address = ""

    async def pass_on(self, client: Stream, address: str) -> None:
        """Both ways, between a client and the server at HOST:PORT, until both have ended."""
        host, _, port = address.rpartition(":")
        server = await asyncio.open_connection(host, int(port))
        await asyncio.gather(
            self._pump(client[0], server[1], to_server=True), self._pump(server[0], client[1], to_server=False)
        )

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, to_server: bool) -> None:
        try:
            while chunk := await source.read(_CHUNK):
                if to_server:
                    self.sent += len(chunk)
                else:
                    self.received += len(chunk)
                target.write(chunk)
                await target.drain()
        finally:
            target.close()


@asynccontextmanager
async def relay_to(address: str) -> AsyncIterator[Relay]:
    """A relay on loopback before a server at HOST:PORT."""
    relay, passing = Relay(), list[asyncio.Task[None]]()

    async with asyncio.TaskGroup() as group:

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            passing.append(group.create_task(relay.pass_on((reader, writer), address)))

        listening = await asyncio.start_server(accept, "127.0.0.1", 0)
        async with listening:
            relay.address = f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"
            yield relay
        for task in passing:
            task.cancel()


async def count_bytes(scheme: str, address: str, file: RadiographFile, *, system: str) -> dict[str, int]:
    """Bytes to and from the server for one radiograph, headers and framing included, on a connection that is open."""
    async with relay_to(address) as relay, AsyncClient(f"{scheme}://{relay.address}", system=system) as client:
        await client.embed(file)
        sent, received = relay.sent, relay.received
        await client.embed(file)
        return {"sent": relay.sent - sent, "received": relay.received - received}


def measure_wire(server: LocalServer, queries: Mapping[str, Query], *, system: str) -> dict[str, Any]:
    """Bytes for each query over gRPC and HTTP, against float32 crops (without the framing that they would need)."""
    found: dict[str, Any] = {"float_crops": FLOAT_CROPS_BYTES}
    for name, query in queries.items():
        found[name] = query.described()
        for scheme, address in (("grpc", server.grpc), ("http", server.http)):
            counted = asyncio.run(count_bytes(scheme, address, query.file, system=system))
            found[name][scheme] = {**counted, "share_of_float_crops": counted["sent"] / FLOAT_CROPS_BYTES}
    return found
