"""Whether a server answers: an inference of a small image by every ensemble, since readiness alone says too little.

Triton calls a model ready whose Python process has died. Only an answer shows that one is to be had.
"""

from typing import Any

from chextriev.errors import ServerUnavailable
from chextriev.optional import require
from chextriev.serving.wire import BOXES, IMAGE, canary, request_tensors

_DTYPES = {IMAGE: "BYTES", BOXES: "FP32"}


def loaded_models(address: str) -> tuple[str, ...]:
    """Names of the models that a server calls ready; none where it does not answer."""
    grpc = require("tritonclient.grpc", extra="serve")
    with grpc.InferenceServerClient(address) as client:
        index = client.get_model_repository_index(as_json=True).get("models", [])
    return tuple(sorted(model["name"] for model in index if model.get("state") == "READY"))


def answers_canary(address: str, *, timeout_s: float = 10.0) -> bool:
    """Whether every ensemble encodes the canary; a server without an ensemble need only be live, its models ready."""
    try:
        check_canary(address, timeout_s=timeout_s)
    except ServerUnavailable:
        return False
    return True


def check_canary(address: str, *, timeout_s: float = 10.0) -> None:
    """ServerUnavailable with the reason where an ensemble does not encode the canary."""
    grpc = require("tritonclient.grpc", extra="serve")
    utils = require("tritonclient.utils", extra="serve")
    try:
        with grpc.InferenceServerClient(address) as client:
            if not client.is_server_ready(client_timeout=timeout_s):
                raise ServerUnavailable(f"the server at {address} is not ready")
            for name in _ensembles(client, timeout_s):
                client.infer(name, _inputs(grpc), client_timeout=timeout_s)
    except utils.InferenceServerException as error:
        raise ServerUnavailable(f"the server at {address} does not answer a canary: {error.message()}") from None


def _ensembles(client: Any, timeout_s: float) -> list[str]:
    """Names of the ensembles that take an image and its boxes."""
    index = client.get_model_repository_index(as_json=True, client_timeout=timeout_s).get("models", [])
    configs = [
        client.get_model_config(model["name"], as_json=True, client_timeout=timeout_s)["config"]
        for model in index
        if model.get("state") == "READY"
    ]
    return [
        config["name"]
        for config in configs
        if config.get("platform") == "ensemble" and {item["name"] for item in config["input"]} == {IMAGE, BOXES}
    ]


def _inputs(grpc: Any) -> list[Any]:
    inputs = []
    for name, tensor in request_tensors([canary()]).items():
        inputs.append(grpc.InferInput(name, list(tensor.shape), _DTYPES[name]))
        inputs[-1].set_data_from_numpy(tensor)
    return inputs
