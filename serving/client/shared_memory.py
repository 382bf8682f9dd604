"""Triton on the same host: requests over gRPC, images and embeddings through shared memory."""

import threading
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from chextriev.errors import (
    DeadlineExpired,
    InvalidSetting,
    RequestRefused,
    ServerFailed,
    ServerUnavailable,
    ServingError,
)
from chextriev.serving.client.connection import Connection
from chextriev.serving.client.deadline import Deadline
from chextriev.serving.client.grpc_transport import GrpcTransport, grpc_error
from chextriev.serving.client.region_tensors import Places, RegionOutputs, layout, write
from chextriev.serving.client.regions import Region, RegionPool, is_orphan, reap
from chextriev.serving.client.statuses import new_error
from chextriev.serving.client.transport import Call, ModelDescription, Tensors
from chextriev.serving.client.triton_messages import WIRE_TYPES, microseconds, read_outputs

_FAREWELL_S = 2.0
_MOMENT_S = 0.01


class SharedMemoryTransport:
    """Triton's gRPC at HOST:PORT of this host, its tensors in memory that both ends map.

    A request whose deadline expires leaves the caller at once, but its region only when the server has ended it, as the
    server may still write there. Closing waits for these, but not for long, and unregisters every region; what is left
    goes with the first client that begins after this process has ended.
    """

    def __init__(self, address: str, connection: Connection | None = None) -> None:
        connection = connection or Connection()
        self.address, self._connection = address, connection
        self._grpc = GrpcTransport(address, connection)
        self._client, self._library = self._grpc.client, self._grpc.library
        self._pool = RegionPool(connection.sockets, self._new_region, self._unregister)
        self._lock, self._registered = threading.Lock(), set[str]()
        self._closed = self._swept = False
        reap()

    def describe(self, model: str, timeout_s: float) -> ModelDescription:
        """What the server says of a model."""
        return self._grpc.describe(model, timeout_s)

    def infer(self, call: Call, timeout_s: float) -> Tensors:
        """The outputs of the model."""
        inputs, outputs, size = layout(call)
        for _ in range(self._connection.sockets + 1):
            region = self._pool.take(size, timeout_s)
            try:
                return self._infer_in(region, (inputs, outputs), call, timeout_s)
            except _RegionUnknown:  # the server has been started anew, and knows none of the idle ones
                continue
        raise new_error(ServerUnavailable, "the server forgets its shared memory", self.address)

    def close(self) -> None:
        """Unregister every region and close the connection; requests on their way fail."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        for region in self._pool.empty(_FAREWELL_S):  # Triton keeps a region that it uses
            region.close()
        self._take_leave()
        self._grpc.close()

    def _take_leave(self) -> None:
        """Unregister every region; Triton is done with one only a moment after it has answered."""
        countdown, left = Deadline(_FAREWELL_S).start(), sorted(self._registered)
        while left and countdown.left_s():
            left = [name for name in left if not self._unregistered(name)]
            if left:
                threading.Event().wait(_MOMENT_S)

    def _unregistered(self, name: str) -> bool:
        """Whether the server has let go of a region, or cannot be asked."""
        try:
            self._client.unregister_system_shared_memory(name, **self._options())
        except (self._library.InferenceServerException, ValueError) as error:
            return not isinstance(grpc_error(error, self.address), ServerFailed)
        return True

    def _infer_in(self, region: Region, places: tuple[Places, Places], call: Call, timeout_s: float) -> Tensors:
        future = self._send(region, places, call, timeout_s)
        try:
            result = future.result(timeout_s)
        except TimeoutError:
            if not future.cancel():  # it came at the last moment
                result = future.result()
            else:
                words = f"no answer within {timeout_s:.3g} s"
                raise new_error(DeadlineExpired, words, self.address) from None
        except BaseException:
            future.cancel()
            raise
        if isinstance(result, ServingError):
            self._settle(region, result)
            raise _RegionUnknown if _is_unknown(result, region) else result
        try:
            return self._read(region, places[1], call, result)
        finally:
            self._pool.give_back(region)

    def _send(self, region: Region, places: tuple[Places, Places], call: Call, timeout_s: float) -> "Future[Any]":
        """The request, on its way; the future gives tritonclient's result or a ServingError."""
        future: Future[Any] = Future()

        def answered(result: Any, error: Any) -> None:
            found = result if error is None else grpc_error(error, self.address)
            if future.set_running_or_notify_cancel():
                future.set_result(found)
            elif isinstance(found, ServingError):
                self._settle(region, found)
            else:
                self._pool.give_back(region)

        try:
            self._client.async_infer(
                call.model.name,
                self._inputs(region, places[0], call),
                answered,
                outputs=self._outputs(region, places[1], call),
                request_id=call.request,
                timeout=microseconds(timeout_s),
                headers=dict(self._connection.headers),
            )
        except BaseException as error:
            self._lose(region)
            if isinstance(error, ValueError):  # gRPC's, of a connection that was closed here
                raise grpc_error(error, self.address) from None
            raise
        return future

    def _inputs(self, region: Region, places: Places, call: Call) -> list[Any]:
        inputs = []
        for name, array in call.inputs.items():
            offset, size = places[name]
            write(region, offset, array)
            inputs.append(self._library.InferInput(name, list(array.shape), WIRE_TYPES[str(array.dtype)]))
            inputs[-1].set_shared_memory(region.name, size, offset)
        return inputs

    def _outputs(self, region: Region, places: Places, call: Call) -> list[Any]:
        outputs = [self._library.InferRequestedOutput(output.name) for output in call.model.outputs]
        for output in outputs:
            if output.name() in places:
                offset, size = places[output.name()]
                output.set_shared_memory(region.name, size, offset)
        return outputs

    def _read(self, region: Region, places: Places, call: Call, result: Any) -> Tensors:
        """Copies of the outputs in the region, and the others from the answer itself."""
        found = RegionOutputs(region, places, call, result)
        return {name: array.copy() for name, array in read_outputs(found, call, self.address).items()}

    def _settle(self, region: Region, error: ServingError) -> None:
        """Use a region again where the server itself has ended the request, else never."""
        if isinstance(error, ServerUnavailable) or _is_unknown(error, region):
            self._lose(region)
        else:
            self._pool.give_back(region)

    def _lose(self, region: Region) -> None:
        region.close()
        self._pool.lose()

    def _new_region(self, size: int) -> Region:
        with self._lock:
            swept, self._swept = self._swept, True
        if not swept:
            self._sweep()
        return Region(size, self._register)

    def _sweep(self) -> None:
        """Have the server let go of what killed clients of this host have left with it."""
        with suppress(self._library.InferenceServerException, ValueError):
            status = self._client.get_system_shared_memory_status(as_json=True, **self._options())
            for name in filter(is_orphan, status.get("regions", {})):
                self._client.unregister_system_shared_memory(name, **self._options())

    def _register(self, name: str, size: int) -> None:
        with self._lock:
            if self._closed:
                raise new_error(ServerUnavailable, "the connection was closed", self.address)
            self._registered.add(name)
        try:
            self._client.register_system_shared_memory(name, f"/{name}", size, **self._options())
        except (self._library.InferenceServerException, ValueError) as error:
            failure = grpc_error(error, self.address)
            if isinstance(failure, RequestRefused):
                raise InvalidSetting(
                    f"{failure}; shm:// needs a server on this host that shares its /dev/shm, runs as this user and"
                    " allows shared memory: use grpc:// otherwise"
                ) from None
            raise failure from None

    def _unregister(self, region: Region) -> None:
        if self._unregistered(region.name):  # else once more at the end
            with self._lock:
                self._registered.discard(region.name)
        region.close()

    def _options(self) -> dict[str, Any]:
        return {"headers": dict(self._connection.headers), "client_timeout": _FAREWELL_S}


class _RegionUnknown(Exception):
    """The server does not know a region that was registered; never leaves this file."""


def _is_unknown(error: ServingError, region: Region) -> bool:
    return isinstance(error, RequestRefused) and region.name in str(error)
