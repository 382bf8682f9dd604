"""Triton over gRPC, for threads and for an event loop."""

import asyncio
from contextlib import suppress
from typing import Any

from chextriev.errors import ServerUnavailable, ServingError, UnknownModel, UntrustedServer
from chextriev.optional import require
from chextriev.serving.client.connection import Connection
from chextriev.serving.client.statuses import new_error, serving_error
from chextriev.serving.client.tls import Tls
from chextriev.serving.client.tls_probe import hung_up, tls_quarrel
from chextriev.serving.client.transport import Call, ModelDescription, Tensors
from chextriev.serving.client.triton_messages import describe, microseconds, read_outputs, triton_inputs

_LARGEST = 2**31 - 1
_RECONNECT_MS = 100, 2_000  # gRPC's own first second of silence would outlast our retries


class GrpcTransport:
    """Triton's gRPC at HOST:PORT. Any number of threads share its one connection."""

    def __init__(self, address: str, connection: Connection | None = None, *, tls: Tls | None = None) -> None:
        self.address, self._connection = address, connection or Connection()
        self._tls = tls
        self.library = require("tritonclient.grpc", extra="client")
        self.client = self.library.InferenceServerClient(address, **client_options(self._connection, tls))

    def describe(self, model: str, timeout_s: float) -> ModelDescription:
        """What the server says of a model; UnknownModel lists those it has if its administration is open."""
        try:
            answer = self.client.get_model_config(model, as_json=True, **self._options(timeout_s))
        except (self.library.InferenceServerException, ValueError) as error:
            raise self._with_models(self._failure(error), timeout_s) from None
        return describe(answer.get("config", {}), self.address)

    def infer(self, call: Call, timeout_s: float) -> Tensors:
        """The outputs of the model."""
        try:
            result = self.client.infer(
                call.model.name,
                triton_inputs(self.library, call),
                request_id=call.request,
                timeout=microseconds(timeout_s),
                **self._options(timeout_s),
            )
        except (self.library.InferenceServerException, ValueError) as error:
            raise self._failure(error) from None
        return read_outputs(result, call, self.address)

    def close(self) -> None:
        """Close the connection; requests on their way fail."""
        self.client.close()

    def _options(self, timeout_s: float) -> dict[str, Any]:
        return {"headers": dict(self._connection.headers), "client_timeout": timeout_s}

    def _failure(self, error: Exception) -> ServingError:
        failure = grpc_error(error, self.address)
        return because_of_tls(failure, self.address, self._tls) if hung_up(str(failure)) else failure

    def _with_models(self, error: ServingError, timeout_s: float) -> ServingError:
        if not isinstance(error, UnknownModel):
            return error
        with suppress(self.library.InferenceServerException, ValueError):  # a server may keep its list to itself
            index = self.client.get_model_repository_index(as_json=True, **self._options(timeout_s))
            return with_models(error, index.get("models", []))
        return error


class AsyncGrpcTransport:
    """Triton's gRPC at HOST:PORT, for the event loop that uses it first."""

    def __init__(self, address: str, connection: Connection | None = None, *, tls: Tls | None = None) -> None:
        self.address, self._connection = address, connection or Connection()
        self._tls = tls
        self._library = require("tritonclient.grpc.aio", extra="client")
        self._settings = client_options(self._connection, tls)
        self._opened: Any = None

    @property
    def _client(self) -> Any:
        """Made where the loop runs: a channel belongs to the loop of its making."""
        if self._opened is None:
            self._opened = self._library.InferenceServerClient(self.address, **self._settings)
        return self._opened

    async def describe(self, model: str, timeout_s: float) -> ModelDescription:
        """What the server says of a model; UnknownModel lists those it has if its administration is open."""
        try:
            answer = await self._client.get_model_config(model, as_json=True, **self._options(timeout_s))
        except (self._library.InferenceServerException, ValueError) as error:
            raise await self._with_models(await self._failure(error), timeout_s) from None
        return describe(answer.get("config", {}), self.address)

    async def infer(self, call: Call, timeout_s: float) -> Tensors:
        """The outputs of the model."""
        try:
            result = await self._client.infer(
                call.model.name,
                triton_inputs(self._library, call),
                request_id=call.request,
                timeout=microseconds(timeout_s),
                **self._options(timeout_s),
            )
        except (self._library.InferenceServerException, ValueError) as error:
            raise await self._failure(error) from None
        return read_outputs(result, call, self.address)

    async def close(self) -> None:
        """Close the connection; requests on their way fail."""
        if self._opened is not None:
            await self._opened.close()

    def _options(self, timeout_s: float) -> dict[str, Any]:
        return {"headers": dict(self._connection.headers), "client_timeout": timeout_s}

    async def _failure(self, error: Exception) -> ServingError:
        failure = grpc_error(error, self.address)
        if not hung_up(str(failure)):
            return failure
        return await asyncio.to_thread(because_of_tls, failure, self.address, self._tls)

    async def _with_models(self, error: ServingError, timeout_s: float) -> ServingError:
        if not isinstance(error, UnknownModel):
            return error
        with suppress(self._library.InferenceServerException, ValueError):
            index = await self._client.get_model_repository_index(as_json=True, **self._options(timeout_s))
            return with_models(error, index.get("models", []))
        return error


def client_options(connection: Connection, tls: Tls | None) -> dict[str, Any]:
    """Arguments of tritonclient's gRPC clients."""
    keep_alive = connection.keep_alive
    channel = {
        "grpc.max_send_message_length": _LARGEST,
        "grpc.max_receive_message_length": _LARGEST,
        "grpc.keepalive_time_ms": int(keep_alive.time_s * 1000),
        "grpc.keepalive_timeout_ms": int(keep_alive.timeout_s * 1000),
        "grpc.keepalive_permit_without_calls": int(keep_alive.without_calls),
        "grpc.http2.max_pings_without_data": 0,  # as many as keep_alive asks for
        "grpc.initial_reconnect_backoff_ms": _RECONNECT_MS[0],
        "grpc.max_reconnect_backoff_ms": _RECONNECT_MS[1],
        "grpc.use_local_subchannel_pool": 1,  # else clients of one address share a connection and its keep-alive
    }
    options: dict[str, Any] = {"channel_args": list(channel.items())}
    if tls is not None:
        ca, key, certificate = tls.contents()
        grpc = require("grpc", extra="client")
        options["creds"] = grpc.ssl_channel_credentials(ca, key, certificate)
    return options


def grpc_error(error: Exception, address: str) -> ServingError:
    """The error for an exception of tritonclient; a ValueError is gRPC's for a connection that was closed here."""
    if isinstance(error, ValueError):
        return new_error(ServerUnavailable, "the connection was closed", address)
    status, message = getattr(error, "status", lambda: None)(), getattr(error, "message", lambda: None)()
    return serving_error(status, message, address)


def because_of_tls(error: ServingError, address: str, tls: Tls | None) -> ServingError:
    """UntrustedServer in place of the error where the two ends do not agree on TLS."""
    quarrel = tls_quarrel(address, tls)
    return UntrustedServer(f"{address}: {quarrel}") if quarrel else error


def with_models(error: ServingError, index: list[dict[str, Any]]) -> ServingError:
    """The error with the names of the models that can be asked."""
    names = sorted({str(model["name"]) for model in index if model.get("state") == "READY"})
    return type(error)(f"{error}; the server has {', '.join(names) or 'no model'}") if names else error
