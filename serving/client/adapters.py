"""Either kind of transport through the other: an event loop in a thread, and threads behind an event loop."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from chextriev.errors import ServerUnavailable
from chextriev.serving.client.statuses import new_error
from chextriev.serving.client.transport import AsyncTransport, Call, ModelDescription, Tensors, Transport

Result = TypeVar("Result")


class Blocking:
    """An asynchronous transport for threads: it runs on an event loop of its own, in a thread of its own."""

    def __init__(self, address: str, make: Callable[[], AsyncTransport]) -> None:
        self.address = address
        self._transport = make()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="chextriev-client", daemon=True)
        self._thread.start()
        self._lock, self._closed = threading.Lock(), False

    def describe(self, model: str, timeout_s: float) -> ModelDescription:
        """What the server says of a model."""
        return self._run(self._transport.describe(model, timeout_s))

    def infer(self, call: Call, timeout_s: float) -> Tensors:
        """The outputs of the model."""
        return self._run(self._transport.infer(call, timeout_s))

    def close(self) -> None:
        """Close the transport, end what is on its way, and stop the loop."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        asyncio.run_coroutine_threadsafe(self._finish(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _finish(self) -> None:
        await self._transport.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        with self._lock:
            if self._closed:
                work.close()
                raise self._gone()
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except asyncio.CancelledError:
            raise self._gone() from None
        except BaseException:  # an interrupted caller does not leave its request behind
            future.cancel()
            raise

    def _gone(self) -> Exception:
        return new_error(ServerUnavailable, "the connection was closed", self.address)


class Threaded:
    """A transport for an event loop, each of its requests in one of a few threads."""

    def __init__(self, transport: Transport, *, threads: int = 16) -> None:
        self.address = transport.address
        self._transport = transport
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="chextriev-client")

    async def describe(self, model: str, timeout_s: float) -> ModelDescription:
        """What the server says of a model."""
        return await self._run(self._transport.describe, model, timeout_s)

    async def infer(self, call: Call, timeout_s: float) -> Tensors:
        """The outputs of the model."""
        return await self._run(self._transport.infer, call, timeout_s)

    async def close(self) -> None:
        """Close the transport and wait for the threads."""
        await asyncio.to_thread(self._finish)

    def _finish(self) -> None:
        self._transport.close()
        self._pool.shutdown()

    async def _run(self, work: Callable[..., Result], *arguments: object) -> Result:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)
        except RuntimeError:  # the pool's, after its end
            raise new_error(ServerUnavailable, "the connection was closed", self.address) from None
