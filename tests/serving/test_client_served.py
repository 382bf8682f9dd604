"""The client against a real Triton: the same bits over every transport, and nothing left behind."""

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from chextriev.bundle import EncoderBundle
from chextriev.encoder import Embeddings, open_encoder
from chextriev.errors import DeadlineExpired, InvalidSetting, OtherEncoder, RequestRefused, UnknownModel
from chextriev.index.search import open_index
from chextriev.radiograph import RegionBoxes
from chextriev.radiograph_file import RadiographFile
from chextriev.serving.client import AsyncClient, Client, Deadline, InProcessTransport, Threaded
from chextriev.serving.client.regions import FOLDER, new_name
from chextriev.serving.wire import OUTPUTS, ensemble_name
from tests.serving.served import Served
from tests.serving.stock import stock_client

TOLERANCE = 1e-5
"""Across batch sizes, max|a - b| / max|b|."""
SCHEMES = ("grpc", "http", "shm")
CRASH = """
import sys, signal
from pathlib import Path
from chextriev.radiograph import read_boxes
from chextriev.serving.client import Client, RadiographFile
client = Client(sys.argv[1], system=sys.argv[2])
client.embed([RadiographFile.from_path(path, sys.argv[3]) for path in sys.argv[4:]])
print("embedded", flush=True)
signal.pause()
"""

NAMED = "from chextriev.serving.client.regions import new_name; print(new_name())"

_KNOWN: dict[tuple[str, int], Embeddings] = {}

every = pytest.mark.parametrize("way", [*SCHEMES, "in-process"])
both = pytest.mark.parametrize("kind", ["threads", "loop"])


def address(served: Served, scheme: str) -> str:
    return f"{scheme}://{served.server.http if scheme == 'http' else served.server.grpc}"


def ask(served: Served, way: str, kind: str, question: Callable[[Any], Any], **settings: Any) -> Any:
    """What a client gets, whose transport is a scheme or this process."""
    settings = {"system": served.bundle.card.system, **settings}
    bundle = served.ath if settings["system"] == "ath" else served.bundle
    here = InProcessTransport(open_encoder(bundle)) if way == "in-process" else None
    if kind == "threads":
        with Client(here or address(served, way), **settings) as client:
            found = question(client)
            return list(found) if isinstance(found, Iterator) else found

    async def main() -> Any:
        async with AsyncClient(Threaded(here) if here else address(served, way), **settings) as client:
            found = question(client)
            return await found if isinstance(found, Awaitable) else [item async for item in found]

    return asyncio.run(main())


def arrays(embeddings: Embeddings) -> dict[str, Any]:
    named = {name: getattr(embeddings, "vectors" if name == "embedding" else name) for name in OUTPUTS}
    return {name: array for name, array in named.items() if array is not None}


def assert_same(found: Embeddings, wanted: Embeddings) -> None:
    assert (found.image_ids, found.encoder_digest) == (wanted.image_ids, wanted.encoder_digest)
    assert set(arrays(found)) == set(arrays(wanted))
    for name, array in arrays(wanted).items():
        assert arrays(found)[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays(found)[name], array, err_msg=name)


def in_process(bundle: EncoderBundle, count: int, served: Served) -> Embeddings:
    """The embeddings of the first radiographs in one batch, computed once."""
    if (bundle.digest, count) not in _KNOWN:
        encoder = open_encoder(bundle)
        _KNOWN[bundle.digest, count] = encoder.encode([file.decode() for file in served.files[:count]])
    return _KNOWN[bundle.digest, count]


@both
@every
@pytest.mark.parametrize("system", ["graph", "ath"])
@pytest.mark.parametrize("count", [1, 4])
def test_the_same_batch_gives_the_same_bits(served: Served, way: str, kind: str, system: str, count: int) -> None:
    bundle, files = (served.bundle if system == "graph" else served.ath), served.files[:count]
    found = ask(served, way, kind, lambda client: client.embed(files), system=bundle.card.system)
    assert_same(found, in_process(bundle, count, served))


@both
@every
def test_a_stream_gives_nearly_the_same_as_one_batch(served: Served, way: str, kind: str) -> None:
    files, wanted = served.files[:4], in_process(served.bundle, 4, served)
    for batch in (1, 3):
        parts = ask(served, way, kind, lambda client, batch=batch: client.stream(files, batch=batch))
        assert tuple(name for part in parts for name in part.image_ids) == wanted.image_ids
        for name, array in arrays(wanted).items():
            found = np.concatenate([arrays(part)[name] for part in parts])
            assert np.abs(found - array).max() / np.abs(array).max() <= TOLERANCE


@both
@pytest.mark.parametrize("way", ["grpc", "shm"])
def test_decoded_radiographs_give_the_bits_of_their_files(served: Served, way: str, kind: str) -> None:
    files = served.files[:2]
    pixels = ask(served, way, kind, lambda client: client.embed([file.decode() for file in files]))
    assert_same(pixels, ask(served, way, kind, lambda client: client.embed(files)))


@both
@pytest.mark.parametrize("way", SCHEMES)
def test_a_local_and_a_served_index_find_the_same(served: Served, way: str, kind: str) -> None:
    index, query = open_index(served.index), served.files[4]
    wanted = index.search(served.encoder.encode([query.decode()]), 5)[0]
    local = ask(served, way, kind, lambda client: client.search(query, 5), index=served.index)
    remote = ask(served, way, kind, lambda client: client.search(query, 5), index="served")
    assert local == wanted
    assert [replace(hit, score=0.0) for hit in remote] == [replace(hit, score=0.0) for hit in wanted]
    np.testing.assert_allclose([hit.score for hit in remote], [hit.score for hit in wanted], rtol=1e-6)
    own = dict(zip(index.columns["image_id"], index.columns["patient_id"], strict=True))[query.image_id]
    assert own not in {hit.patient_id for hit in wanted}


@both
@pytest.mark.parametrize("index", ["local", "served"])
def test_a_patient_given_is_left_out(served: Served, kind: str, index: str) -> None:
    new = replace(served.files[4], image_id="new")
    where = served.index if index == "local" else "served"
    first = ask(served, "grpc", kind, lambda client: client.search(new, 3), index=where)[0]
    assert first.image_id == served.files[4].image_id
    others = ask(served, "grpc", kind, lambda client: client.search(new, 3, patient_id=first.patient_id), index=where)
    assert first.patient_id not in {hit.patient_id for hit in others}
    assert len(others) == 3


@both
def test_an_index_of_this_machine_is_filtered_and_a_served_one_is_not(served: Served, kind: str) -> None:
    query, views = served.files[4], open_index(served.index).columns["view"]
    view = next(view for view in views if view is not None)
    found = ask(
        served, "grpc", kind, lambda client: client.search(query, 3, where=[f"view = {view}"]), index=served.index
    )
    assert {hit.view for hit in found} == {view}
    before = inferences(served, "region_backbone")
    with pytest.raises(InvalidSetting, match="a served index takes no where"):
        ask(served, "grpc", kind, lambda client: client.search(query, 3, where=["view = PA"]), index="served")
    assert inferences(served, "region_backbone") == before


@both
def test_an_index_of_another_encoder_is_refused_before_anything_is_encoded(served: Served, kind: str) -> None:
    before = inferences(served, "ath")
    with pytest.raises(
        OtherEncoder, match=rf"{served.ath.digest[:12]}, the index holds .* {served.bundle.digest[:12]}"
    ):
        ask(served, "grpc", kind, lambda client: client.search(served.files[0]), index=served.index, system="ath")
    assert inferences(served, "ath") == before


def inferences(served: Served, model: str) -> int:
    with stock_client("grpc", served.server.grpc) as client:
        (said,) = client.get_inference_statistics(model).model_stats
    return int(said.inference_count)


@both
@pytest.mark.parametrize("fault", ["text", "truncated", "outside"])
def test_every_transport_refuses_in_the_same_words(served: Served, kind: str, fault: str) -> None:
    good = served.files[0]
    outside = RegionBoxes(good.boxes.xyxy + np.float32(4000))
    bad = {
        "text": RadiographFile("bad", b"no picture", good.boxes),
        "truncated": RadiographFile("bad", good.content[: len(good.content) // 3], good.boxes),
        "outside": RadiographFile("bad", good.content, outside),
    }[fault]
    said = set()
    for way in (*SCHEMES, "in-process"):
        with pytest.raises(RequestRefused, match=r"image 1.* \(request \w+, images image-\d+, bad\)$") as raised:
            ask(served, way, kind, lambda client: client.embed([good, bad]))
        said.add(str(raised.value).partition(": ")[2].rpartition(" (request")[0])
    assert len(said) == 1
    assert next(iter(said)).startswith({"outside": "BoxOutside: "}.get(fault, "UnreadableImage: "))


@both
@every
def test_one_refused_radiograph_costs_no_other_its_answer(served: Served, way: str, kind: str) -> None:
    sources = [served.files[0], RadiographFile("bad", b"no picture", served.files[0].boxes), served.files[1]]
    found = ask(served, way, kind, lambda client: client.answers(sources, concurrency=2, batch=2))
    assert [answer.image_id for answer in found] == [source.image_id for source in sources]
    assert [type(answer.error).__name__ for answer in found].count("NoneType") == 2
    assert isinstance(found[1].error, RequestRefused)


@both
@every
def test_a_system_that_is_not_served(served: Served, way: str, kind: str) -> None:
    with pytest.raises(UnknownModel, match="chextriev_v5"):
        ask(served, way, kind, lambda client: client.embed(served.files[0]), system="v5")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_expired_deadline_harms_no_later_request(served: Served, scheme: str) -> None:
    files = served.files[:4]
    with Client(address(served, scheme), system=served.bundle.card.system) as client:
        client.encoder_digest()
        for _ in range(2):
            with pytest.raises(DeadlineExpired, match=r"\(request \w+, images"):
                client.embed(files[::-1], deadline=Deadline(total_s=0.001))
        assert_same(client.embed(files), in_process(served.bundle, 4, served))


def regions(served: Served) -> list[str]:
    """Names of the shared memory that the server has mapped for clients."""
    with stock_client("grpc", served.server.grpc) as client:
        return sorted(client.get_system_shared_memory_status(as_json=True).get("regions", {}))


def forget_regions(served: Served) -> None:
    """Have the server forget all shared memory, as one started anew; it keeps a region for a moment after an answer."""
    countdown = Deadline(30).start()
    with stock_client("grpc", served.server.grpc) as client:
        while regions(served):
            with suppress(InferenceServerException):
                client.unregister_system_shared_memory()
            assert countdown.left_s(), regions(served)


def shared_files() -> set[str]:
    return {path.name for path in FOLDER.glob("chextriev-client-*")}


def test_shared_memory_is_bounded_reused_and_leaves_nothing(served: Served) -> None:
    before = regions(served)
    with Client(address(served, "shm"), system=served.bundle.card.system) as client:
        for _ in client.stream(served.files[:8], concurrency=3):
            assert not shared_files()
            assert 1 <= len(set(regions(served)) - set(before)) <= 3
        used = regions(served)
        client.embed(served.files[0])
        assert regions(served) == used
    assert regions(served) == before


def test_shared_memory_that_a_server_has_forgotten_is_replaced(served: Served) -> None:
    with Client(address(served, "shm"), system=served.bundle.card.system) as client:
        wanted = client.embed(served.files[:3])
        forget_regions(served)
        assert_same(client.embed(served.files[:3]), wanted)


def test_what_a_killed_client_leaves_is_gone_with_the_next_one(served: Served, tmp_path: Path) -> None:
    from chextriev.anatomy import Region

    (tmp_path / "boxes.json").write_text(
        str({region.label: served.files[0].boxes.xyxy[region].tolist() for region in Region}).replace("'", '"')
    )
    (tmp_path / "a.jpg").write_bytes(served.files[0].content)
    words = [address(served, "shm"), served.bundle.card.system, str(tmp_path / "boxes.json"), str(tmp_path / "a.jpg")]
    before = set(regions(served))
    with subprocess.Popen([sys.executable, "-c", CRASH, *words], stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "embedded\n"
        left = set(regions(served)) - before
        assert left
        client.kill()
        client.wait(60)
    assert not shared_files()
    assert set(regions(served)) - before == left  # mapped by the server alone
    with Client(address(served, "shm"), system=served.bundle.card.system) as other:
        other.embed(served.files[0])
        assert not left & set(regions(served))
    assert set(regions(served)) <= before


def test_a_file_of_a_client_that_died_at_the_wrong_moment_is_removed(served: Served) -> None:
    with subprocess.Popen([sys.executable, "-c", NAMED], stdout=subprocess.PIPE, text=True) as client:
        left = FOLDER / client.communicate()[0].strip()
    strange, ours = FOLDER / f"chextriev-client-1-1-1-{'0' * 32}", FOLDER / new_name()
    try:
        for path in (left, strange, ours):
            path.write_bytes(b"half a region")
        with Client(address(served, "shm"), system=served.bundle.card.system):
            assert [path.exists() for path in (left, strange, ours)] == [False, True, True]
    finally:
        strange.unlink()
        ours.unlink()


def test_a_full_shared_memory_is_named(served: Served) -> None:
    huge = RadiographFile("huge", served.files[0].content, served.files[0].boxes)
    with Client(address(served, "shm"), system=served.bundle.card.system) as client:
        client.embed(huge)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("os.posix_fallocate", _no_space)
            with pytest.raises(
                InvalidSetting, match=r"shared memory of .* bytes: No space left on device; make /dev/shm"
            ):
                client.embed(RadiographFile("huge", bytes(3 * 2**20), huge.boxes))
        assert not shared_files()
        client.embed(huge)


def _no_space(descriptor: int, offset: int, size: int) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_client_of_thousands_stays_small(served: Served, scheme: str) -> None:
    """Sources are read when their turn comes: a generator of far more than fits is pulled no further than asked."""
    pulled = 0

    def sources() -> Iterator[Callable[[], RadiographFile]]:
        nonlocal pulled
        while True:
            pulled += 1
            yield lambda: served.files[0]

    with Client(address(served, scheme), system=served.bundle.card.system) as client:
        stream = client.stream(sources(), concurrency=4)
        for _ in range(9):
            next(stream)
        stream.close()
    assert pulled <= 9 + 8


def test_the_server_logs_no_image(served: Served) -> None:
    named = RadiographFile("Jane-Doe-1950", served.files[0].content, served.files[0].boxes)
    refused = RadiographFile("Jane-Doe-1950", b"no picture", served.files[0].boxes)
    with Client(address(served, "grpc"), system=served.bundle.card.system, index="served") as client:
        client.search(named, patient_id="patient-Doe")
        with pytest.raises(RequestRefused, match="Jane-Doe-1950"):
            client.embed(refused)
    log = served.server.log.read_text(errors="replace")
    assert "Doe" not in log
    assert ensemble_name(served.bundle.card.system) in log
