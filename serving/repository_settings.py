"""How bundles are served: where, which engine, and how much may wait."""

from dataclasses import dataclass
from pathlib import Path

from chextriev.bundle import DEFAULT, EncoderBundle
from chextriev.errors import InvalidSetting

TARGETS = {
    "cpu": ("python", DEFAULT),
    "onnxruntime": ("onnxruntime", DEFAULT),
    "tensorrt": ("tensorrt", "tensorrt-fp16"),
}
"""Target -> Triton's backend for the engines, and the engine that it serves unless told otherwise."""


@dataclass(frozen=True)
class RepositorySettings:
    """How bundles are served.

    target: "cpu" (Python backend, runs anywhere), "onnxruntime" or "tensorrt" (NVIDIA's image). engine: of each bundle;
    None for the target's own. version: of every model in the repository, for clients that ask for one. queue: requests
    that may wait for a model. timeout_s: the longest wait. indexes: directories to search, each of one of the bundles'
    encoders. localizer_engine: of the localizer; None for that of the bundles.
    """

    target: str = "cpu"
    engine: str | None = None
    version: int = 1
    queue: int = 64
    timeout_s: float = 30.0
    indexes: tuple[Path, ...] = ()
    localizer_engine: str | None = None

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise InvalidSetting(f"target {self.target!r}; choose one of {', '.join(TARGETS)}")
        if self.version < 1 or self.queue < 1 or not 0 < self.timeout_s <= 3600:
            raise InvalidSetting(f"{self!r}: version and queue are at least 1, timeout_s is above 0 and at most 3600")

    @property
    def backend(self) -> str:
        """Triton's backend for the engines."""
        return TARGETS[self.target][0]

    @property
    def chosen_engine(self) -> str:
        """The engine of each bundle that is served."""
        return self.engine or TARGETS[self.target][1]

    def engine_of(self, bundle: EncoderBundle) -> str:
        """The engine of a bundle of an encoder or of a localizer."""
        return (self.localizer_engine if bundle.locates else None) or self.chosen_engine
