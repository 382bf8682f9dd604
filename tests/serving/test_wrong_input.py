"""Wrong input over the wire: a status and a sentence, no traceback and no path, and neighbours go unharmed."""

import os
import re
import signal
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tritonclient.utils import InferenceServerException

from chextriev.radiograph import raw_image
from chextriev.serving.wire import ensemble_name, index_name, request_tensors
from tests.serving.served import QUEUE, Served
from tests.serving.stock import png_bomb, stock_client, stock_infer

Request = dict[str, npt.NDArray[Any]]
REFUSED = {"grpc": "StatusCode.INVALID_ARGUMENT", "http": "400"}
UNKNOWN = {"grpc": "StatusCode.NOT_FOUND", "http": "404"}
TOO_LATE = {"grpc": "StatusCode.UNAVAILABLE", "http": "503"}
BETRAYAL = re.compile(r"Traceback|File \"|\.py\b|/home/|/root/|/tmp/|site-packages|0x[0-9a-f]{6,}")

protocols = pytest.mark.parametrize("protocol", ["grpc", "http"])


def with_image(content: bytes) -> Callable[[Request], Request]:
    return lambda good: {**good, "image": np.array([[content]], np.object_)}


def with_box(values: list[float], region: int = 2) -> Callable[[Request], Request]:
    def change(good: Request) -> Request:
        boxes = good["boxes"].copy()
        boxes[0, region] = values
        return {**good, "boxes": boxes}

    return change


def times(count: int) -> Callable[[Request], Request]:
    return lambda good: {name: np.repeat(array, count, axis=0) for name, array in good.items()}


WRONG: dict[str, tuple[Callable[[Request], Request], str]] = {
    "boxes of float64": (lambda good: {**good, "boxes": good["boxes"].astype(np.float64)}, "'FP64'.*expects 'FP32'"),
    "an image of integers": (lambda good: {**good, "image": np.zeros((1, 1), np.uint8)}, "'UINT8'.*expects 'BYTES'"),
    "boxes of three numbers": (lambda good: {**good, "boxes": good["boxes"][..., :3].copy()}, r"got \[1,18,3\]"),
    "17 boxes": (lambda good: {**good, "boxes": good["boxes"][:, :17].copy()}, r"\[-1,18,4\], got \[1,17,4\]"),
    "19 boxes": (
        lambda good: {**good, "boxes": np.concatenate([good["boxes"], good["boxes"][:, :1]], axis=1)},
        r"\[-1,18,4\], got \[1,19,4\]",
    ),
    "another name": (lambda good: {"image": good["image"], "box": good["boxes"]}, "unexpected inference input 'box'"),
    "no boxes": (lambda good: {"image": good["image"]}, r"missing required input\(s\) \['boxes'\]"),
    "one tensor more": (lambda good: {**good, "more": good["boxes"]}, "expected 2 inputs but got 3"),
    "no dimension for the batch": (lambda good: {**good, "image": good["image"][0]}, r"\[-1,1\], got \[1\]"),
    "two images, one set of boxes": (lambda good: {**good, "image": np.repeat(good["image"], 2, 0)}, "batch size"),
    "an empty batch": (lambda good: {name: array[:0] for name, array in good.items()}, "Expected 288, got 0"),
    "33 radiographs": (times(33), "batch-size must be <= 32"),
    "a box of NaN": (with_box([0, np.nan, 9, 9]), r"InvalidBox: image 0: box of 'right upper lung zone' is \[0, nan"),
    "a box without area": (with_box([5, 5, 5, 9]), "EmptyBox: image 0: box of 'right upper lung zone'.*x1 < x2"),
    "a box outside": (with_box([900, 900, 950, 950]), "BoxOutside: .* does not touch the image of 100 x 120 pixels"),
    "an endless box": (with_box([0, 0, np.inf, 9]), "InvalidBox"),
    "a text": (with_image(b"Patient: none"), "UnreadableImage: image 0: not a readable JPEG or PNG image"),
    "no byte": (with_image(b""), "UnreadableImage: image 0"),
    "a bomb": (with_image(png_bomb(30_000, 30_000)), "UnreadableImage: image 0: too many pixels; at most 89,000,000"),
    "a picture of one grey": (with_image(raw_image(np.full((9, 9), 7, np.uint8))), "EmptyImage: image 0"),
    "a graymap that ends early": (with_image(b"P5 900 900 255\n123"), "UnreadableImage: image 0"),
}


@pytest.fixture(scope="module")
def model(served: Served) -> str:
    return ensemble_name(served.bundle.card.system)


@pytest.fixture(scope="module")
def good(served: Served) -> Request:
    return dict(request_tensors(served.files[:1]))


def refusal(served: Served, protocol: str, model: str, request: Request, **options: Any) -> tuple[str, str]:
    with (
        stock_client(protocol, getattr(served.server, protocol)) as client,
        pytest.raises(InferenceServerException) as caught,
    ):
        stock_infer(client, model, request, **options)
    words = str(caught.value.message())
    assert not BETRAYAL.search(words), words
    return str(caught.value.status()), words


@protocols
@pytest.mark.parametrize(("spoil", "said"), WRONG.values(), ids=WRONG)
def test_wrong_input_is_refused_in_words(
    served: Served, model: str, good: Request, protocol: str, spoil: Callable[[Request], Request], said: str
) -> None:
    status, words = refusal(served, protocol, model, spoil(good))
    assert status == REFUSED[protocol]
    assert re.search(said, words), words


@protocols
def test_a_jpeg_that_ends_early(served: Served, model: str, good: Request, protocol: str) -> None:
    content = good["image"][0, 0]
    status, words = refusal(served, protocol, model, with_image(content[: len(content) // 2])(good))
    assert status == REFUSED[protocol]
    assert "UnreadableImage: image 0: not a readable JPEG or PNG image (image file is truncated" in words


@protocols
def test_what_the_server_does_not_have(served: Served, model: str, good: Request, protocol: str) -> None:
    assert refusal(served, protocol, "chextriev_v9", good)[0] == UNKNOWN[protocol]
    status, words = refusal(served, protocol, model, good, model_version="9")
    assert (status, "version 9 is not found" in words) == (UNKNOWN[protocol], True)


@protocols
def test_a_request_that_has_no_time_leaves_the_queue(served: Served, model: str, good: Request, protocol: str) -> None:
    status, words = refusal(served, protocol, model, good, timeout=1)
    assert (status, "Request timeout expired" in words) == (TOO_LATE[protocol], True)


def test_a_deadline_of_the_caller(served: Served, model: str, good: Request) -> None:
    assert refusal(served, "grpc", model, good, client_timeout=1e-4)[0] == "StatusCode.DEADLINE_EXCEEDED"


@protocols
@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("k", np.zeros((1, 1), np.int32), "InvalidSetting: k is .0.; ask for 1 to 10,000 hits"),
        ("vectors", np.full((1, 32), np.nan, np.float32), "InvalidValue: query 0"),
        ("vectors", np.zeros((1, 32), np.float32), "InvalidValue: query 0"),
        ("vectors", np.ones((1, 31), np.float32), r"\[-1,32\], got \[1,31\]"),
    ],
)
def test_a_served_index_refuses_in_words(
    served: Served, protocol: str, name: str, value: npt.NDArray[Any], said: str
) -> None:
    request = {
        "vectors": np.ones((1, 32), np.float32),
        "k": np.full((1, 1), 3, np.int32),
        "image_ids": np.array([[b""]], np.object_),
        "patient_ids": np.array([[b""]], np.object_),
    }
    status, words = refusal(served, protocol, index_name(served.bundle.card.system), {**request, name: value})
    assert status == REFUSED[protocol]
    assert re.search(said, words), words


def test_overload_is_refused_at_once_and_the_rest_are_answered(served: Served, model: str) -> None:
    request, count = dict(request_tensors(served.files[:1])), 4 * QUEUE
    stubs = [process.pid for process in served.server.processes if process.model]

    def ask(_: int) -> str:
        try:
            stock_infer(client, model, request)
        except InferenceServerException as error:
            return f"{error.status()} {error.message()}"
        return "answered"

    with stock_client("grpc", served.server.grpc) as client, ThreadPoolExecutor(count) as pool:
        for stub in stubs:  # so that requests wait, however slowly they come
            os.kill(stub, signal.SIGSTOP)
        try:
            asked = [pool.submit(ask, number) for number in range(count)]
            early, _ = wait(asked, 60, FIRST_COMPLETED)
        finally:
            for stub in stubs:
                os.kill(stub, signal.SIGCONT)
        assert early, "a full queue let requests wait"
        found = [each.result() for each in asked]
    refused = [words for words in found if words != "answered"]
    assert refused
    assert "answered" in found
    assert all("StatusCode.UNAVAILABLE" in words and "Exceeds maximum queue size" in words for words in refused)
    assert not any(BETRAYAL.search(words) for words in refused)


def test_neighbours_in_the_same_batch_are_unharmed(served: Served, model: str, good: Request) -> None:
    """The wrong ones among requests sent at once, which the server batches as they wait."""
    spoiled = [with_image(b"no image"), with_box([0, np.nan, 9, 9]), with_box([900, 900, 950, 950])]
    requests = [good if number % 3 else spoiled[number % len(spoiled)](good) for number in range(12)]

    def ask(request: Request) -> Any:
        try:
            return stock_infer(client, model, request).as_numpy("embedding")
        except InferenceServerException as error:
            return str(error.status())

    with stock_client("grpc", served.server.grpc) as client, ThreadPoolExecutor(12) as pool:
        wanted = stock_infer(client, model, good).as_numpy("embedding")
        found = list(pool.map(ask, requests))
    for number, answer in enumerate(found):
        if number % 3:
            np.testing.assert_allclose(answer, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
        else:
            assert answer == REFUSED["grpc"]


def test_one_wrong_radiograph_of_a_request_is_named_by_its_row(served: Served, model: str) -> None:
    request = dict(request_tensors(served.files[:3]))
    images = request["image"].copy()
    images[1, 0] = b"no image"
    _, words = refusal(served, "grpc", model, {**request, "image": images})
    assert "UnreadableImage: image 1: " in words
