"""What a local server's supervisor asks it, by gRPC: whether it answers, which models it has, to load one anew.

Triton calls a model ready whose Python process has died. Only an inference shows that answers are to be had: a canary,
which is a small image with its boxes, by every ensemble that takes an image; one that has boxes proposed gets it alone.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from chextriev.errors import DeadlineExpired, Overloaded, ServerUnavailable
from chextriev.optional import require
from chextriev.serving.wire import BOXES, IMAGE, canary, ensemble_tensors, takes_boxes

CANARY_S = 10.0
"""Until a canary must be answered."""
_DTYPES = {IMAGE: "BYTES", BOXES: "FP32"}
_FULL = "maximum queue size"
_LATE = "Deadline Exceeded"


@dataclass(frozen=True)
class ServerControl:
    """A server at HOST:PORT. headers: what its restricted protocols ask for.

    Every method raises ServerUnavailable where the server does not answer, DeadlineExpired where it does so too late.
    """

    address: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def check_canary(self, *, timeout_s: float = CANARY_S) -> None:
        """Return if every ensemble encodes the canary; Overloaded where its queue is full."""
        grpc = require("tritonclient.grpc", extra="serve")
        with self._client() as client:
            for name in self.ensembles():
                client.infer(name, _inputs(grpc, name), client_timeout=timeout_s)

    def models(self, *, timeout_s: float = CANARY_S) -> dict[str, str]:
        """Every model of the repository and its state; "READY", or what keeps it from that."""
        with self._client() as client:
            index = client.get_model_repository_index(headers=self.headers, as_json=True, client_timeout=timeout_s)
        return {model["name"]: model.get("state", "UNLOADED") for model in index.get("models", [])}

    def ensembles(self, *, timeout_s: float = CANARY_S) -> list[str]:
        """Names of the loaded ensembles that take an image, with its boxes or without."""
        ready = [name for name, state in self.models(timeout_s=timeout_s).items() if state == "READY"]
        with self._client() as client:
            configs = [
                client.get_model_config(name, as_json=True, client_timeout=timeout_s)["config"] for name in ready
            ]
        return [
            config["name"]
            for config in configs
            if config.get("platform") == "ensemble" and {item["name"] for item in config["input"]} == _inputs_of(config)
        ]

    def answered(self, *, timeout_s: float = CANARY_S) -> int:
        """How many inferences models have answered since they were loaded."""
        with self._client() as client:
            statistics = client.get_inference_statistics(as_json=True, client_timeout=timeout_s)
        models = statistics.get("model_stats", [])
        return sum(int(model["inference_stats"].get("success", {}).get("count", 0)) for model in models)

    def unload(self, model: str, *, timeout_s: float = CANARY_S) -> None:
        """Unload a model; ensembles that need it become unavailable until it is loaded again."""
        with self._client() as client:
            client.unload_model(model, headers=self.headers, client_timeout=timeout_s)

    def load(self, model: str, *, timeout_s: float) -> None:
        """Load a model, and the ensembles that had lost it."""
        with self._client() as client:
            client.load_model(model, headers=self.headers, client_timeout=timeout_s)

    @contextmanager
    def _client(self) -> Iterator[Any]:
        grpc = require("tritonclient.grpc", extra="serve")
        utils = require("tritonclient.utils", extra="serve")
        try:
            with grpc.InferenceServerClient(self.address) as client:
                yield client
        except utils.InferenceServerException as error:
            said = str(error.message())
            kind = Overloaded if _FULL in said else DeadlineExpired if _LATE in said else ServerUnavailable
            raise kind(f"the server at {self.address} says: {said}") from None


def answers_canary(control: ServerControl, *, timeout_s: float = CANARY_S) -> bool:
    """Whether every ensemble encodes the canary now."""
    try:
        control.check_canary(timeout_s=timeout_s)
    except (ServerUnavailable, DeadlineExpired):
        return False
    return True


def _inputs_of(config: Mapping[str, Any]) -> set[str]:
    """Names of the inputs that an ensemble of ours would have under this name."""
    return {IMAGE, BOXES} if takes_boxes(config["name"]) else {IMAGE}


def _inputs(grpc: Any, ensemble: str) -> list[Any]:
    inputs = []
    for name, tensor in ensemble_tensors(ensemble, [canary()]).items():
        inputs.append(grpc.InferInput(name, list(tensor.shape), _DTYPES[name]))
        inputs[-1].set_data_from_numpy(tensor)
    return inputs
