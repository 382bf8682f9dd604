"""Triton over HTTP, for an event loop; threads use it through `Blocking`.

tritonclient's client for threads is not used: its connections belong to one thread each, and its time-outs count from
one packet to the next, not for a request.
"""

import asyncio
import io
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any, TypeVar

from chextriev.errors import (
    DeadlineExpired,
    ServerFailed,
    ServerUnavailable,
    ServingError,
    UnknownModel,
    UntrustedServer,
)
from chextriev.optional import require
from chextriev.serving.client.connection import Connection
from chextriev.serving.client.grpc_transport import with_models
from chextriev.serving.client.statuses import clean, new_error, serving_error
from chextriev.serving.client.tls import Tls
from chextriev.serving.client.transport import Call, ModelDescription, Tensors
from chextriev.serving.client.triton_messages import UNREADABLE, describe, microseconds, read_outputs, triton_inputs

Result = TypeVar("Result")
_NO_LIMIT_S = None  # of aiohttp, for the whole of a request; the deadline is `asyncio.timeout`


class AsyncHttpTransport:
    """Triton's HTTP at HOST:PORT, for the event loop that uses it first. tls: for a proxy, Triton itself has none."""

    def __init__(self, address: str, connection: Connection | None = None, *, tls: Tls | None = None) -> None:
        self.address, self._connection = address, connection or Connection()
        self._library = require("tritonclient.http.aio", extra="client")
        self._errors = require("aiohttp", extra="client")
        self._context = None if tls is None else tls.context()
        self._opened: Any = None

    @property
    def _client(self) -> Any:
        if self._opened is None:
            self._opened = _client_class(self._library)(
                self.address,
                conn_limit=self._connection.sockets,
                conn_timeout=_NO_LIMIT_S,
                ssl=self._context is not None,
                ssl_context=True if self._context is None else self._context,
            )
        return self._opened

    async def describe(self, model: str, timeout_s: float) -> ModelDescription:
        """What the server says of a model; UnknownModel lists those it has if its administration is open."""
        try:
            config = await self._ask(self._client.get_model_config(model, headers=self._headers()), timeout_s)
        except UnknownModel as error:
            with suppress(ServingError):
                index = self._client.get_model_repository_index(headers=self._headers())
                raise with_models(error, await self._ask(index, timeout_s)) from None
            raise
        return describe(config, self.address)

    async def infer(self, call: Call, timeout_s: float) -> Tensors:
        """The outputs of the model."""
        question = self._client.infer(
            call.model.name,
            triton_inputs(self._library, call),
            request_id=call.request,
            timeout=microseconds(timeout_s),
            headers=self._headers(),
        )
        return read_outputs(await self._ask(question, timeout_s), call, self.address)

    async def close(self) -> None:
        """Close the connections; requests on their way fail."""
        if self._opened is not None:
            await self._opened.close()

    def _headers(self) -> dict[str, str]:
        return dict(self._connection.headers)

    async def _ask(self, question: Awaitable[Result], timeout_s: float) -> Result:
        try:
            async with asyncio.timeout(timeout_s):
                return await question
        except TimeoutError:
            raise new_error(DeadlineExpired, f"no answer within {timeout_s:.3g} s", self.address) from None
        except self._library.InferenceServerException as error:
            raise serving_error(error.status(), error.message(), self.address) from None
        except self._errors.ClientSSLError as error:
            raise new_error(UntrustedServer, clean(str(error)), self.address) from None
        except self._errors.ClientResponseError:
            words = "answers, but not as Triton's HTTP does; is this its gRPC port?"
            raise ServerFailed(f"{self.address} {words}") from None
        except (self._errors.ClientError, OSError) as error:
            raise new_error(ServerUnavailable, clean(str(error)) or type(error).__name__, self.address) from None
        except RuntimeError:  # aiohttp's for a session that was closed here
            raise new_error(ServerUnavailable, "the connection was closed", self.address) from None
        except UNREADABLE:
            raise new_error(ServerFailed, "the answer cannot be read; is this a Triton?", self.address) from None


def _client_class(library: Any) -> type[Any]:
    class Client(library.InferenceServerClient):  # type: ignore[misc]
        async def _post(self, request_uri: str, request_body: Any, headers: Any, query_params: Any) -> Any:
            """aiohttp warns of long bytes, which it writes at one go; of a stream it writes a part at a time."""
            body = io.BytesIO(request_body.encode() if isinstance(request_body, str) else request_body)
            return await super()._post(request_uri, body, headers, query_params)

    return Client
