"""A real Triton with a localizer: radiographs without boxes, the same bits as in this process, wrong input refused."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from chextriev.encoder import Embeddings, open_encoder
from chextriev.errors import RequestRefused
from chextriev.index.search import open_index
from chextriev.localizer import Located, open_localizer
from chextriev.radiograph import raw_image
from chextriev.radiograph_file import RadiographFile
from chextriev.serving.canary import ServerControl
from chextriev.serving.client import AsyncClient, Client, InProcessTransport, Threaded
from chextriev.serving.doctor.health import ailments
from chextriev.serving.wire import image_tensors, located_name
from tests.dicom_files import as_bytes, data_set
from tests.serving.served import Served
from tests.serving.stock import png_bomb, stock_client, stock_infer
from tests.serving.test_wrong_input import BETRAYAL, REFUSED

SCHEMES = ("grpc", "http", "shm")
FIELDS = ("vectors", "finding_logits", "region_logits", "region_vectors", "boxes", "box_confidence")

_KNOWN: dict[int, tuple[Located, Embeddings]] = {}

every = pytest.mark.parametrize("way", [*SCHEMES, "in-process"])
both = pytest.mark.parametrize("kind", ["threads", "loop"])
protocols = pytest.mark.parametrize("protocol", ["grpc", "http"])


@pytest.fixture(scope="module")
def bare(served: Served) -> list[RadiographFile]:
    """The radiographs without their boxes."""
    return [replace(file, boxes=None) for file in served.files[:8]]


@pytest.fixture(scope="module")
def here(served: Served) -> InProcessTransport:
    return InProcessTransport(served.encoder, open_localizer(served.localizer))


@pytest.fixture(scope="module")
def model(served: Served) -> str:
    return located_name(served.bundle.card.system)


def ask(served: Served, way: Any, kind: str, question: Callable[[Any], Any], **settings: Any) -> Any:
    """What a client gets, whose transport is a scheme or one of this process."""
    settings = {"system": served.bundle.card.system, **settings}
    address = f"{way}://{served.server.http if way == 'http' else served.server.grpc}" if way in SCHEMES else way
    if kind == "threads":
        with Client(address, **settings) as client:
            found = question(client)
            return list(found) if isinstance(found, Iterator) else found

    async def main() -> Any:
        async with AsyncClient(address if way in SCHEMES else Threaded(way), **settings) as client:
            found = question(client)
            return await found if isinstance(found, Awaitable) else [item async for item in found]

    return asyncio.run(main())


def expected(served: Served, count: int) -> tuple[Located, Embeddings]:
    """The first radiographs, located and encoded in this process in one batch each; computed once."""
    if count not in _KNOWN:
        images = [file.decode_image() for file in served.files[:count]]
        located = open_localizer(served.localizer).locate([image.pixels for image in images])
        boxed = [image.with_boxes(boxes) for image, boxes in zip(images, located.boxes, strict=True)]
        _KNOWN[count] = located, served.encoder.encode(boxed)
    return _KNOWN[count]


def check(served: Served, found: Embeddings, count: int) -> None:
    located, wanted = expected(served, count)
    wanted = replace(wanted, boxes=np.stack([boxes.xyxy for boxes in located.boxes]), box_confidence=located.confidence)
    assert (found.image_ids, found.encoder_digest) == (
        tuple(file.image_id for file in served.files[:count]),
        wanted.encoder_digest,
    )
    assert found.boxes_source == (located.source,) * count
    for name in FIELDS:
        assert getattr(found, name).dtype == np.float32
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name), err_msg=name)


@both
@every
@pytest.mark.parametrize("count", [1, 3])
def test_the_same_batch_gives_the_same_bits(
    served: Served, bare: list[RadiographFile], here: InProcessTransport, way: str, kind: str, count: int
) -> None:
    found = ask(served, here if way == "in-process" else way, kind, lambda client: client.embed(bare[:count]))
    check(served, found, count)


def test_proposals_depend_on_the_image(served: Served) -> None:
    located, _ = expected(served, 3)
    sizes = np.array([file.decode_image().pixels.shape[::-1] * 2 for file in served.files[:3]])[:, np.newaxis]
    fractions = np.stack([boxes.xyxy for boxes in located.boxes]) / sizes
    assert np.ptp(fractions, axis=0).max() > 1e-4
    assert not np.array_equal(located.boxes[0].xyxy, served.files[0].boxes.xyxy)


@both
def test_a_search_finds_what_the_same_boxes_find_when_they_are_given(
    served: Served, bare: list[RadiographFile], kind: str
) -> None:
    located, wanted = expected(served, 1)
    index = open_index(served.index)
    (hits,) = index.search(wanted, 3)
    for where in (served.index, "served"):
        assert ask(served, "grpc", kind, lambda client: client.search(bare[0], 3), index=where) == hits
        assert ask(served, "grpc", kind, lambda client: client.search_embeddings(wanted, 3), index=where) == [hits]
    said = ask(served, "grpc", kind, lambda client: client.findings(bare[0]))
    np.testing.assert_allclose(list(said.values()), wanted.finding_probabilities[0], rtol=1e-6)
    boxed = replace(bare[0], boxes=located.boxes[0], boxes_source=located.source)
    again = ask(served, "grpc", kind, lambda client: client.embed(boxed))
    np.testing.assert_array_equal(again.vectors, wanted.vectors)
    assert again.boxes_source == (located.source,)


@both
def test_a_stream_mixes_radiographs_with_and_without_boxes(
    served: Served, bare: list[RadiographFile], kind: str
) -> None:
    sources = [bare[0], served.files[1], bare[2], RadiographFile("bad", b"no picture")]
    found = ask(served, "grpc", kind, lambda client: client.answers(sources, batch=4))
    assert [answer.image_id for answer in found] == [source.image_id for source in sources]
    assert [type(answer.error) for answer in found] == [type(None)] * 3 + [RequestRefused]
    source = expected(served, 1)[0].source
    assert [answer.embeddings.boxes_source for answer in found[:3]] == [(source,), ("given",), (source,)]
    np.testing.assert_array_equal(found[1].embeddings.boxes[0], served.files[1].boxes.xyxy)


@every
def test_an_encoder_of_the_whole_image_needs_no_boxes(served: Served, bare: list[RadiographFile], way: str) -> None:
    encoder = open_encoder(served.ath)
    found = ask(
        served,
        InProcessTransport(encoder) if way == "in-process" else way,
        "threads",
        lambda client: client.embed(bare[:2]),
        system="ath",
    )
    wanted = encoder.encode([file.decode() for file in served.files[:2]])
    np.testing.assert_array_equal(found.vectors, wanted.vectors)
    np.testing.assert_array_equal(found.hash_bits, wanted.hash_bits)
    assert found.boxes is None


def test_a_dicom_file_is_asked_about_by_its_path(served: Served, here: InProcessTransport, tmp_path: Any) -> None:
    path = tmp_path / "chest.dcm"
    path.write_bytes(as_bytes(data_set()))
    found = ask(served, "grpc", "threads", lambda client: client.embed(path))
    wanted = ask(served, here, "threads", lambda client: client.embed(path.read_bytes()))
    np.testing.assert_array_equal(found.vectors, wanted.vectors)
    np.testing.assert_array_equal(found.boxes, wanted.boxes)


WRONG = {
    "a text": (b"Patient: none", "UnreadableImage: image 0: not a readable JPEG or PNG image"),
    "no byte": (b"", "UnreadableImage: image 0"),
    "a bomb": (png_bomb(30_000, 30_000), "UnreadableImage: image 0: too many pixels; at most 89,000,000"),
    "a picture of one grey": (raw_image(np.full((9, 9), 7, np.uint8)), "EmptyImage: image 0"),
    "a graymap that ends early": (b"P5 900 900 255\n123", "UnreadableImage: image 0"),
    "a DICOM file": (as_bytes(data_set()), "UnreadableImage: image 0: not a readable JPEG or PNG image"),
}


def refusal(served: Served, protocol: str, model: str, request: Any) -> str:
    with (
        stock_client(protocol, getattr(served.server, protocol)) as client,
        pytest.raises(InferenceServerException) as caught,
    ):
        stock_infer(client, model, request)
    words = str(caught.value.message())
    assert not BETRAYAL.search(words), words
    assert str(caught.value.status()) == REFUSED[protocol]
    return words


@protocols
@pytest.mark.parametrize(("content", "said"), WRONG.values(), ids=WRONG)
def test_wrong_input_is_refused_in_words(served: Served, model: str, protocol: str, content: bytes, said: str) -> None:
    assert said in refusal(served, protocol, model, image_tensors([RadiographFile("wrong", content)]))


@protocols
def test_a_jpeg_that_ends_early(served: Served, bare: list[RadiographFile], model: str, protocol: str) -> None:
    half = RadiographFile("half", bare[1].content[: len(bare[1].content) // 2])
    words = refusal(served, protocol, model, image_tensors([bare[0], half]))
    assert "UnreadableImage: image 1: not a readable JPEG or PNG image" in words


@protocols
def test_boxes_are_no_input(served: Served, bare: list[RadiographFile], model: str, protocol: str) -> None:
    request = {**image_tensors(bare[:1]), "boxes": served.files[0].boxes.xyxy[np.newaxis]}
    assert "expected 1 inputs but got 2" in refusal(served, protocol, model, request)


def test_zeros_are_no_boxes_for_an_encoder_of_regions(served: Served, bare: list[RadiographFile]) -> None:
    request = {**image_tensors(bare[:1]), "boxes": np.zeros((1, 18, 4), np.float32)}
    assert "EmptyBox: image 0" in refusal(served, "grpc", f"chextriev_{served.bundle.card.system}", request)


def test_neighbours_are_unharmed(served: Served, bare: list[RadiographFile], model: str) -> None:
    """The wrong ones among requests sent at once, which the localizer batches as they wait."""
    wrong = [RadiographFile("wrong", content) for content, _ in WRONG.values()]
    files = [wrong[number // 2 % len(wrong)] if number % 2 else bare[number // 2 % 4] for number in range(12)]

    def answer(file: RadiographFile) -> Any:
        try:
            return stock_infer(client, model, image_tensors([file])).as_numpy("boxes")
        except InferenceServerException as error:
            return str(error.status())

    with stock_client("grpc", served.server.grpc) as client, ThreadPoolExecutor(12) as pool:
        found = list(pool.map(answer, files))
    proposed = {file.image_id: boxes.xyxy for file, boxes in zip(bare, expected(served, 4)[0].boxes, strict=False)}
    for file, boxes in zip(files, found, strict=True):
        if file.image_id in proposed:
            np.testing.assert_allclose(boxes[0], proposed[file.image_id], atol=1e-3)
        else:
            assert boxes == REFUSED["grpc"]


def test_the_located_ensemble_is_watched(served: Served, model: str) -> None:
    assert model in served.server.ensembles
    control = ServerControl(served.server.grpc, served.server.admin)
    assert sorted(control.ensembles()) == list(served.server.ensembles)
    control.check_canary()
    port = int(served.server.http.rpartition(":")[2])
    assert ailments(served.folder / "models", port, timeout_s=60) == []


@pytest.mark.real
def test_real_radiographs_give_the_same_bits(served: Served, here: InProcessTransport, real_data: Any) -> None:
    paths = sorted((real_data / "images").glob("*"))[:4]
    found = ask(served, "grpc", "threads", lambda client: client.embed(paths))
    wanted = ask(served, here, "threads", lambda client: client.embed(paths))
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name), err_msg=name)
