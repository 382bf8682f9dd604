"""What a server said of its models, for a while."""

import time
from collections.abc import Callable

from chextriev.serving.client.transport import ModelDescription

FRESH_S = 60.0
"""A model may be loaded anew with other weights while a client lives; then it says so at most this much later."""


class Described:
    """Descriptions by model, each good for FRESH_S; `clock` gives seconds. Safe to use from several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: dict[str, tuple[float, ModelDescription]] = {}

    def get(self, name: str) -> ModelDescription | None:
        """The description of a model; None where it must be asked for."""
        asked, model = self._known.get(name, (0.0, None))
        return model if model is not None and self._clock() - asked < FRESH_S else None

    def put(self, model: ModelDescription) -> ModelDescription:
        """Keep a description."""
        self._known[model.name] = self._clock(), model
        return model

    def forget(self) -> None:
        """Ask again: the server may have been started anew, with another encoder."""
        self._known = {}
