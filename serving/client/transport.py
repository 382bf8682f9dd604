"""What carries requests: three methods, so that a fake is short and an encoder in this process is one of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy.typing as npt

from chextriev.bundle import TensorSpec

Tensors = Mapping[str, npt.NDArray[Any]]
"""Arrays by name; `bytes` tensors are object arrays of bytes."""


@dataclass(frozen=True)
class ModelDescription:
    """What a server says of one of its models.

    outputs: their first dimension is the batch. parameters: of its configuration, as `encoder_digest`.
    """

    name: str
    outputs: tuple[TensorSpec, ...]
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Call:
    """One inference: what is asked of a described model. request: a random id, which the server may log."""

    model: ModelDescription
    inputs: Tensors
    request: str

    @property
    def rows(self) -> int:
        """Rows of the batch."""
        return len(next(iter(self.inputs.values())))


class Transport(Protocol):
    """A way to a server; safe to use from several threads at once.

    What fails is a ServingError: UnknownModel, RequestRefused, ServerUnavailable (which may be tried again),
    DeadlineExpired, UntrustedServer or ServerFailed. address: for messages.
    """

    address: str

    def describe(self, model: str, timeout_s: float) -> ModelDescription:
        """What the server says of a model."""

    def infer(self, call: Call, timeout_s: float) -> Tensors:
        """The outputs of the model, all of those that it has."""

    def close(self) -> None:
        """End what is open; may be called again."""


class AsyncTransport(Protocol):
    """`Transport` for one event loop."""

    address: str

    async def describe(self, model: str, timeout_s: float) -> ModelDescription:
        """What the server says of a model."""

    async def infer(self, call: Call, timeout_s: float) -> Tensors:
        """The outputs of the model, all of those that it has."""

    async def close(self) -> None:
        """End what is open; may be called again."""
