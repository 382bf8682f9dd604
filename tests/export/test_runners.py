"""Runners: one contract for every executor, in order, in bounded memory, shared by threads."""

import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count, islice

import numpy as np
import pytest

from chextriev import open_encoder
from chextriev.bundle import DEFAULT, REFERENCE
from chextriev.encoder import Embeddings, Encoder, Source
from chextriev.errors import InvalidSetting, MissingDependency, UnreadableImage
from chextriev.export.build_bundle import relative_difference
from chextriev.export.runners import CROPS_AT_ONCE
from chextriev.machine import cpu_arithmetic
from chextriev.radiograph import Radiograph
from tests.export.tiny_bundle import TinyBundle

OUTPUTS = ("vectors", "finding_logits", "region_logits", "region_vectors", "hash_bits")
TOLERANCE = 1e-5
"""Of an output's range, from one float32 engine to another and from one size of batch to another."""


@pytest.fixture(scope="module")
def encoder(ath: TinyBundle) -> Encoder:
    return open_encoder(ath.folder)


@pytest.fixture(scope="module")
def radiographs(ath: TinyBundle) -> list[Radiograph]:
    return [ath.table.radiograph(row) for row in range(13)]


def joined(parts: list[Embeddings]) -> Embeddings:
    arrays = {
        name: None if getattr(parts[0], name) is None else np.concatenate([getattr(part, name) for part in parts])
        for name in OUTPUTS
    }
    names = tuple(name for part in parts for name in part.image_ids)
    return Embeddings(names, encoder_digest=parts[0].encoder_digest, **arrays)


def assert_alike(ours: Embeddings, theirs: Embeddings) -> None:
    assert ours.image_ids == theirs.image_ids
    assert ours.encoder_digest == theirs.encoder_digest
    for name in OUTPUTS:
        first, second = getattr(ours, name), getattr(theirs, name)
        assert (first is None) == (second is None)
        if first is not None:
            assert (first.shape, first.dtype) == (second.shape, second.dtype)
            assert relative_difference(first.astype(np.float64), second.astype(np.float64)) <= TOLERANCE, name


def test_every_executor_gives_the_same_embeddings_of_regions(regions: TinyBundle) -> None:
    read = [regions.table.radiograph(row) for row in (0, 9, 5)]
    engines = [open_encoder(regions.folder, engine=engine) for engine in (DEFAULT, REFERENCE)]
    found = [engine.encode(read) for engine in engines]
    assert_alike(*found)
    assert found[0].image_ids == ("image-000", "image-009", "image-005")
    assert found[0].region_vectors is not None
    np.testing.assert_allclose(found[0].region_vectors.mean(axis=1), found[0].vectors, atol=1e-5)
    assert {engine.arithmetic for engine in engines} == {cpu_arithmetic()}
    assert CROPS_AT_ONCE["cpu"] < 3 * 18  # so that a backbone was called more than once


def test_every_executor_gives_the_same_hashes(ath: TinyBundle, encoder: Encoder, radiographs: list[Radiograph]) -> None:
    found = encoder.encode(radiographs)
    assert_alike(found, open_encoder(ath.folder, engine=REFERENCE).encode(radiographs))
    assert found.hash_bits is not None
    assert found.hash_bits.dtype == np.uint8
    np.testing.assert_array_equal(found.hash_bits, found.vectors > 0)


@pytest.mark.parametrize("batch", [1, 5, 13, 50])
def test_a_stream_gives_what_encode_gives(encoder: Encoder, radiographs: list[Radiograph], batch: int) -> None:
    parts = list(encoder.stream(iter(radiographs), batch=batch))
    sizes = [min(batch, 13 - start) for start in range(0, 13, batch)]
    assert [len(part) for part in parts] == sizes
    assert_alike(joined(parts), encoder.encode(radiographs))


def test_sources_are_read_when_their_turn_comes(
    ath: TinyBundle, encoder: Encoder, radiographs: list[Radiograph]
) -> None:
    table = ath.table

    def reading(row: int) -> Callable[[], Radiograph]:
        return lambda: table.radiograph(row)

    mixed: list[Source] = [reading(row) if row % 2 else radiographs[row] for row in range(13)]
    assert_alike(joined(list(encoder.stream(mixed, batch=4))), encoder.encode(radiographs))


def refuse() -> Radiograph:
    raise UnreadableImage("picture.jpg is truncated")


def breaking_off(radiographs: list[Radiograph]) -> Iterator[Radiograph]:
    yield from radiographs[:2]
    raise UnreadableImage("the list is truncated")


def test_an_error_arrives_in_its_place(encoder: Encoder, radiographs: list[Radiograph]) -> None:
    stream = encoder.stream([*radiographs[:2], refuse, *radiographs[3:]], batch=2)
    assert next(stream).image_ids == ("image-000", "image-001")
    with pytest.raises(UnreadableImage, match="is truncated"):
        next(stream)
    with pytest.raises(StopIteration):
        next(stream)
    with pytest.raises(UnreadableImage, match="the list is truncated"):
        list(encoder.stream(breaking_off(radiographs), batch=2))
    assert workers() == []


def workers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("ahead")]


@pytest.mark.parametrize("batch", [1, 3])
def test_two_batches_are_in_memory_of_an_endless_stream(
    encoder: Encoder, radiographs: list[Radiograph], batch: int
) -> None:
    pulled = 0

    def endless() -> Iterator[Source]:
        nonlocal pulled
        for number in count():
            pulled += 1
            yield radiographs[number % 13]

    stream = encoder.stream(endless(), batch=batch)
    for given, part in enumerate(islice(stream, 6)):
        assert len(part) == batch
        assert batch * (given + 1) <= pulled <= batch * (given + 2)
    stream.close()  # type: ignore[attr-defined]
    assert workers() == []


def test_pixels_are_let_go(ath: TinyBundle, encoder: Encoder) -> None:
    alive: list[weakref.ref[Radiograph]] = []

    def read(row: int) -> Callable[[], Radiograph]:
        def source() -> Radiograph:
            radiograph = ath.table.radiograph(row)
            alive.append(weakref.ref(radiograph))
            return radiograph

        return source

    for _ in encoder.stream(map(read, range(12)), batch=2):
        gc.collect()
        assert sum(reference() is not None for reference in list(alive)) <= 2  # one in each thread
    assert len(alive) == 12


def test_threads_share_an_encoder(encoder: Encoder, radiographs: list[Radiograph]) -> None:
    wanted = encoder.encode(radiographs)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda turn: encoder.encode(radiographs[turn:] + radiographs[:turn]), range(8)))
    for turn, embeddings in enumerate(found):
        assert embeddings.image_ids == wanted.image_ids[turn:] + wanted.image_ids[:turn]
        back = np.roll(embeddings.vectors, turn, axis=0)
        assert relative_difference(back, wanted.vectors) <= TOLERANCE


@pytest.mark.parametrize("engine", [DEFAULT, REFERENCE])
def test_nothing_gives_nothing(ath: TinyBundle, engine: str) -> None:
    encoder = open_encoder(ath.folder, engine=engine)
    assert list(encoder.stream([])) == []
    empty = encoder.encode([])
    assert (empty.vectors.shape, empty.vectors.dtype, len(empty)) == ((0, 32), np.float32, 0)
    assert (empty.finding_logits.shape, empty.region_logits) == ((0, 9), None)
    assert empty.hash_bits is not None
    assert (empty.hash_bits.shape, empty.hash_bits.dtype) == ((0, 32), np.uint8)
    assert encoder.extract(np.zeros((0, 256, 256), np.uint8)).shape == (0, 1024)
    assert len(encoder.relate(np.zeros((0, 1, 1024), np.float32), [])) == 0


def test_what_a_runner_cannot_take_is_said(ath: TinyBundle, encoder: Encoder, radiographs: list[Radiograph]) -> None:
    with pytest.raises(InvalidSetting, match=r"crops are \[2, 256, 256\] float32; .* takes \[n, 256, 256\] uint8"):
        encoder.extract(np.zeros((2, 256, 256), np.float32))
    for batch in (0, -1):
        with pytest.raises(InvalidSetting, match=f"batch is {batch}; at least 1"):
            next(encoder.stream(radiographs, batch=batch))
    for engine in (DEFAULT, REFERENCE):
        with pytest.raises(InvalidSetting, match="device 'tpu'; choose one of cpu, cuda"):
            open_encoder(ath.folder, engine=engine, device="tpu")


def test_a_processor_alone_has_no_cuda(ath: TinyBundle) -> None:
    import onnxruntime
    import torch

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(MissingDependency, match=r"cannot use cuda; run: pip install 'chextriev\[gpu-export\]'"):
            open_encoder(ath.folder, device="cuda")
    if not torch.cuda.is_available():
        with pytest.raises(InvalidSetting, match="finds no CUDA device; use device 'cpu'"):
            open_encoder(ath.folder, engine=REFERENCE, device="cuda")


def test_serving_an_engine_loads_neither_torch_nor_onnx(ath: TinyBundle) -> None:
    program = (
        "import sys, numpy; from chextriev import open_encoder; from chextriev.radiograph import Radiograph;"
        f"encoder = open_encoder({str(ath.folder)!r});"
        "features = encoder.extract(numpy.zeros((1, 256, 256), numpy.uint8));"
        "encoder.relate(features[:, None], ['black']);"
        "print(sorted({'torch', 'onnx', 'lightning', 'pandas', 'faiss'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_difference_is_relative_to_the_second_even_where_that_is_zero() -> None:
    zero, one = np.zeros(3, np.float32), np.array([0, 1, 4], np.float32)
    assert relative_difference(zero, zero) == 0
    assert relative_difference(one, zero) == np.inf
    assert relative_difference(one + 1, one) == 0.25
