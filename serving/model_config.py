"""`config.pbtxt` of each model, through Triton's protobuf types, so that a misspelt field fails here and not there."""

from collections.abc import Mapping, Sequence
from typing import Any

from chextriev.bundle import TensorSpec
from chextriev.optional import require
from chextriev.serving.wire import MAX_BATCH

Config = Any  # tritonclient's ModelConfig, a protobuf message

_TYPES = {"uint8": "TYPE_UINT8", "int32": "TYPE_INT32", "float32": "TYPE_FP32", "bytes": "TYPE_STRING"}


def new_config(name: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], *, version: int) -> Config:
    """A model that takes up to MAX_BATCH radiographs; the first dimension of every tensor is that of the batch."""
    types = _types()
    config = types.ModelConfig(name=name, max_batch_size=MAX_BATCH)
    config.version_policy.specific.versions.append(version)
    for tensors, side in ((inputs, config.input), (outputs, config.output)):
        for tensor in tensors:
            dims = [int(size) if isinstance(size, int) else -1 for size in tensor.shape[1:]]
            side.add(name=tensor.name, data_type=types.DataType.Value(_TYPES[tensor.dtype]), dims=dims)
    return config


def set_parameters(config: Config, parameters: Mapping[str, str]) -> None:
    """What the model, or a client that asks for the configuration, must know."""
    for name, value in parameters.items():
        config.parameters[name].string_value = value


def queue_requests(config: Config, *, queue: int, timeout_s: float, together: bool) -> None:
    """Bound the queue of a model. A lone request never waits for company.

    queue: requests that may wait; one more is refused at once. timeout_s: the longest wait; a request may ask for less.
    together: whatever waits when the model is free becomes one batch; else each request is one of its own.
    """
    batching = config.dynamic_batching
    if not together:
        batching.preferred_batch_size.append(1)
    batching.max_queue_delay_microseconds = 0
    policy = batching.default_queue_policy
    policy.timeout_action = policy.REJECT
    policy.default_timeout_microseconds = int(timeout_s * 1e6)
    policy.allow_timeout_override = True
    policy.max_queue_size = queue


def run_on(config: Config, target: str, *, instances: int = 1) -> None:
    """Backend, files and devices: "python" (a processor), "onnxruntime" or "tensorrt" (every GPU that is there)."""
    types = _types()
    config.backend = target
    if target == "python":
        config.default_model_filename = "model.py"
        config.instance_group.add(kind=types.ModelInstanceGroup.KIND_CPU, count=instances)
        return
    config.platform = {"onnxruntime": "onnxruntime_onnx", "tensorrt": "tensorrt_plan"}[target]
    config.default_model_filename = {"onnxruntime": "model.onnx", "tensorrt": "model.plan"}[target]
    config.instance_group.add(kind=types.ModelInstanceGroup.KIND_GPU, count=instances)


def warm_up(config: Config, batches: Sequence[int]) -> None:
    """Zeros of each of these batch sizes are run before the model is ready."""
    for batch in batches:
        sample = config.model_warmup.add(name=f"{batch} of zeros", batch_size=batch)
        for tensor in config.input:
            sample.inputs[tensor.name].data_type = tensor.data_type
            sample.inputs[tensor.name].dims.extend(tensor.dims)
            sample.inputs[tensor.name].zero_data = True


def add_step(config: Config, model: str, tensors: tuple[Mapping[str, str], Mapping[str, str]], *, version: int) -> None:
    """A step of an ensemble; tensors: of inputs and of outputs, the model's name -> the ensemble's."""
    config.platform = "ensemble"
    step = config.ensemble_scheduling.step.add(model_name=model, model_version=version)
    step.input_map.update(tensors[0])
    step.output_map.update(tensors[1])


def config_text(config: Config) -> str:
    """The text of `config.pbtxt`."""
    text: str = require("google.protobuf.text_format", extra="client").MessageToString(config)
    return text


def _types() -> Any:
    return require("tritonclient.grpc.model_config_pb2", extra="client")
