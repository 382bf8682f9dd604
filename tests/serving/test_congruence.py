"""Triton answers what the encoder in this process answers: to the bit for the same batch, over every protocol."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from chextriev.bundle import EncoderBundle
from chextriev.encoder import Embeddings, open_encoder
from chextriev.export.build_bundle import relative_difference
from chextriev.radiograph_file import RadiographFile
from chextriev.serving.wire import OUTPUTS, ensemble_name, request_tensors
from tests.serving.served import Served
from tests.serving.stock import stock_client, stock_infer

TOLERANCE = 1e-5
"""Across batch sizes, max|a - b| / max|b|: the encoder's matrix products add in another order. Measured: 4e-7."""


@pytest.fixture(scope="module", params=["grpc", "http"])
def client(request: pytest.FixtureRequest, served: Served) -> Iterator[Any]:
    with stock_client(request.param, getattr(served.server, request.param)) as opened:
        yield opened


def outputs_of(embeddings: Embeddings) -> dict[str, Any]:
    named = {name: getattr(embeddings, "vectors" if name == "embedding" else name) for name in OUTPUTS}
    return {name: array for name, array in named.items() if array is not None}


def in_process(bundle: EncoderBundle, files: list[RadiographFile]) -> dict[str, Any]:
    return outputs_of(open_encoder(bundle).encode([file.decode() for file in files]))


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("system", ["graph", "ath"])
def test_the_same_batch_gives_the_same_bits(served: Served, client: Any, system: str, count: int) -> None:
    bundle, files = (served.bundle if system == "graph" else served.ath), served.files[:count]
    answer = stock_infer(client, ensemble_name(bundle.card.system), request_tensors(files))
    wanted = in_process(bundle, files)
    assert {output["name"] if isinstance(output, dict) else output.name for output in _outputs(answer)} == set(wanted)
    for name, array in wanted.items():
        found = answer.as_numpy(name)
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array, err_msg=name)


def test_batches_of_other_sizes_give_nearly_the_same(served: Served, client: Any) -> None:
    model, files = ensemble_name(served.bundle.card.system), served.files[:6]
    whole = stock_infer(client, model, request_tensors(files))
    singly = [stock_infer(client, model, request_tensors([file])) for file in files]
    for name in outputs_of(served.encoder.encode([files[0].decode()])):
        joined = np.concatenate([answer.as_numpy(name) for answer in singly])
        assert relative_difference(joined, whole.as_numpy(name)) <= TOLERANCE


def test_the_form_in_which_an_image_travels_does_not_matter(served: Served, client: Any) -> None:
    model, file = ensemble_name(served.bundle.card.system), served.files[3]
    raw = RadiographFile.from_radiograph(file.decode())
    assert raw.content[:2] == b"P5"
    answers = [stock_infer(client, model, request_tensors([form])).as_numpy("embedding") for form in (file, raw)]
    np.testing.assert_array_equal(*answers)


def test_requests_that_share_a_batch_keep_their_own_answers(served: Served) -> None:
    model, files = ensemble_name(served.bundle.card.system), served.files[:8]
    with stock_client("grpc", served.server.grpc) as client:
        answers = _at_once(client, model, files)
    for file in files:
        wanted = served.encoder.encode([file.decode()]).vectors
        assert relative_difference(answers[file.image_id].as_numpy("embedding"), wanted) <= TOLERANCE


def _at_once(client: Any, model: str, files: list[RadiographFile]) -> dict[str, Any]:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(len(files)) as pool:
        answers = pool.map(lambda file: stock_infer(client, model, request_tensors([file])), files)
        return {file.image_id: answer for file, answer in zip(files, answers, strict=True)}


def _outputs(answer: Any) -> Any:
    response = answer.get_response()
    return response["outputs"] if isinstance(response, dict) else response.outputs


@pytest.mark.real
def test_real_radiographs_give_the_same_bits(served: Served, client: Any, real_data: Any) -> None:
    from chextriev.radiograph import read_boxes

    paths = sorted((real_data / "images").glob("*"))[:4]
    boxes = real_data / "regions.csv"
    files = [RadiographFile(path.stem, path.read_bytes(), read_boxes(boxes, image_id=path.stem)) for path in paths]
    answer = stock_infer(client, ensemble_name(served.bundle.card.system), request_tensors(files))
    for name, array in in_process(served.bundle, files).items():
        np.testing.assert_array_equal(answer.as_numpy(name), array, err_msg=name)
