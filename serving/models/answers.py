"""How a model answers each request by itself, so that one that is refused leaves its neighbours in the batch alone."""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from chextriev.errors import ChextrievError, MissingDependency

Result = TypeVar("Result")
Tensors = Mapping[str, npt.NDArray[Any]]


def check_numpy() -> None:
    """Refuse numpy 2: Triton's stub is built for numpy 1 and hands over wrong numbers otherwise, without a word."""
    if int(np.__version__.split(".")[0]) >= 2:
        raise MissingDependency(
            f"the server's Python has numpy {np.__version__}; its tensors would be wrong: pip install 'numpy==1.26.4'"
        )


def read_tensor(request: Any, name: str) -> npt.NDArray[Any]:
    """An input of a request as an array."""
    import triton_python_backend_utils as triton

    array: npt.NDArray[Any] = triton.get_input_tensor_by_name(request, name).as_numpy()
    return array


def respond(outputs: Tensors) -> Any:
    """A response with these outputs."""
    import triton_python_backend_utils as triton

    tensors = [triton.Tensor(name, np.ascontiguousarray(array)) for name, array in outputs.items()]
    return triton.InferenceResponse(output_tensors=tensors)


def refuse(error: Exception) -> Any:
    """A response that says why: our own errors in their words, any other without a word of what it held."""
    import triton_python_backend_utils as triton

    if isinstance(error, ChextrievError):
        message = f"{type(error).__name__}: {error}"
        return triton.InferenceResponse(error=triton.TritonError(message, triton.TritonError.INVALID_ARG))
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    line = frame.tb_lineno if frame is not None else 0
    module = frame.tb_frame.f_globals.get("__name__", "") if frame is not None else ""
    print(f"chextriev: {type(error).__name__} in {module}, line {line}", file=sys.stderr, flush=True)  # noqa: T201
    message = "ServerFailed: the model broke on this request; the server's log says where"
    return triton.InferenceResponse(error=triton.TritonError(message, triton.TritonError.INTERNAL))


def answer_each(requests: Sequence[Any], answer: Callable[[Any], Tensors]) -> list[Any]:
    """A response to each request: what `answer` returns, or its error."""

    def one(request: Any) -> Any:
        return attempt(lambda: respond(answer(request)), refuse)

    return [one(request) for request in requests]


def answer_together(requests: Sequence[Any], name: str, run: Callable[[npt.NDArray[Any]], Tensors]) -> list[Any]:
    """A response to each request, of one call of `run` for the rows of input `name` of all of them.

    Where that fails, each request is run by itself: whose fault it is shows then.
    """

    def singly(_: Exception | None = None) -> list[Any]:
        return answer_each(requests, lambda request: run(read_tensor(request, name)))

    return singly() if len(requests) == 1 else attempt(lambda: _joined(requests, name, run), singly)


def _joined(requests: Sequence[Any], name: str, run: Callable[[npt.NDArray[Any]], Tensors]) -> list[Any]:
    parts = [read_tensor(request, name) for request in requests]
    outputs = run(np.concatenate(parts))
    ends = np.cumsum([len(part) for part in parts])
    slices = [slice(end - len(part), end) for end, part in zip(ends, parts, strict=True)]
    return [respond({key: array[rows] for key, array in outputs.items()}) for rows in slices]


def attempt(work: Callable[[], Result], instead: Callable[[Exception], Result]) -> Result:
    """What `work` returns, or what `instead` makes of its error."""
    try:
        return work()
    except Exception as error:  # noqa: BLE001 - Triton sends any other to the client, with traceback and paths
        return instead(error)
