"""Both clients and radiographs without boxes: what is sent, by which model, and what an answer says of the boxes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chextriev.bundle import TensorSpec
from chextriev.errors import MissingRegion, RequestRefused, ServerFailed
from chextriev.localizer import MeanLayout
from chextriev.radiograph_file import RadiographFile
from chextriev.radiograph_image import RadiographImage
from chextriev.reading import read_image
from chextriev.serving.client import ModelDescription
from chextriev.serving.client.sources import as_file, cut
from chextriev.serving.client.transport import Call, Tensors
from tests.dicom_files import PLANTED, as_bytes, data_set
from tests.serving.fake_server import DIGEST, OUTPUTS, FakeServer, ask_client, both, file
from tests.tiny import boxes

PROPOSALS = (TensorSpec("boxes", ("B", 18, 4), "float32"), TensorSpec("box_confidence", ("B", 18), "float32"))
SOURCE = "localizer 0123456789ab, engine onnx-fp32"
PROPOSED = np.tile(np.array([1, 2, 3, 4], np.float32), (18, 1))


class LocatingServer(FakeServer):
    """`chextriev_v6_located` too, whose proposals are always the same."""

    def __init__(self, *, outputs: tuple[TensorSpec, ...] = PROPOSALS) -> None:
        super().__init__()
        said = {"encoder_digest": DIGEST, "boxes_source": SOURCE}
        self.models["chextriev_v6_located"] = ModelDescription("chextriev_v6_located", (*OUTPUTS, *outputs), said)

    def _answer(self, call: Call) -> Tensors:
        found = super()._answer(call)
        if not call.model.name.endswith("_located"):
            return found
        confidence = np.full((call.rows, 18), 0.5, np.float32)
        return {**found, "boxes": np.tile(PROPOSED, (call.rows, 1, 1)), "box_confidence": confidence}


def bare(number: int) -> RadiographFile:
    return replace(file(number), boxes=None)


@both
def test_boxes_are_proposed_where_there_are_none(kind: str) -> None:
    server = LocatingServer()
    found = ask_client(kind, server, lambda client: client.embed([bare(1), bare(2)]))
    (call,) = server.calls
    assert (call.model.name, set(call.inputs), call.rows) == ("chextriev_v6_located", {"image"}, 2)
    assert (found.vectors[:, 0].tolist(), found.encoder_digest) == ([1, 2], DIGEST)
    np.testing.assert_array_equal(found.boxes, np.stack([PROPOSED] * 2))
    assert (found.box_confidence.tolist(), found.boxes_source) == ([[0.5] * 18] * 2, (SOURCE,) * 2)


@both
def test_given_boxes_go_by_the_ensemble_that_takes_them(kind: str) -> None:
    server = LocatingServer()
    found = ask_client(kind, server, lambda client: client.embed(file(1)))
    assert (server.described, set(server.calls[0].inputs)) == (["chextriev_v6"], {"image", "boxes"})
    np.testing.assert_array_equal(found.boxes, [boxes().xyxy])
    assert found.boxes_source == ("given",)
    assert np.isnan(found.box_confidence).all()


@both
@pytest.mark.parametrize("batch", [1, 4])
def test_radiographs_with_and_without_boxes_keep_their_order(kind: str, batch: int) -> None:
    sources = [file(1), bare(2), bare(3), file(4)]
    together = ask_client(kind, LocatingServer(), lambda client: client.embed(sources))
    answers = ask_client(kind, LocatingServer(), lambda client: client.answers(sources, batch=batch))
    assert together.vectors[:, 0].tolist() == [1, 2, 3, 4]
    assert together.boxes_source == ("given", SOURCE, SOURCE, "given")
    for row, answer in enumerate(answers):
        assert answer.embeddings.boxes_source == (together.boxes_source[row],)
        np.testing.assert_array_equal(answer.embeddings.boxes[0], together.boxes[row])
        np.testing.assert_array_equal(answer.embeddings.box_confidence[0], together.box_confidence[row])


def test_a_request_has_boxes_or_none() -> None:
    parts = list(cut([file(1), file(2), bare(3), bare(4), file(5)]))
    assert [[each.image_id for each in part] for part in parts] == [
        ["secret-1", "secret-2"],
        ["secret-3", "secret-4"],
        ["secret-5"],
    ]


@both
def test_without_a_localizer_the_refusal_says_how_to_have_one(kind: str) -> None:
    server = FakeServer()
    with pytest.raises(RequestRefused, match=r"no boxes, .* --localizer LOCALIZER`.*mean layout.*secret-1") as raised:
        ask_client(kind, server, lambda client: client.embed(bare(1)))
    assert raised.value.request
    assert not server.calls


@both
def test_a_refused_radiograph_without_boxes_costs_no_other_its_answer(kind: str) -> None:
    found = ask_client(kind, FakeServer(), lambda client: client.answers([file(1), bare(2), file(3)], batch=3))
    assert [type(answer.error) for answer in found] == [type(None), RequestRefused, type(None)]
    assert [answer.image_id for answer in found] == ["secret-1", "secret-2", "secret-3"]


@both
def test_an_encoder_of_the_whole_image_needs_no_boxes_and_no_localizer(kind: str) -> None:
    server = FakeServer()
    said = {"encoder_digest": DIGEST, "crop_area": "image"}
    server.models = {"ath": ModelDescription("ath", OUTPUTS, said)}
    found = ask_client(kind, server, lambda client: client.embed([file(1), bare(2)]), system="ath")
    assert found.vectors[:, 0].tolist() == [1, 2]
    assert (found.boxes, found.box_confidence, found.boxes_source) == (None, None, ())
    assert server.described == ["ath"]


@both
def test_a_located_ensemble_that_gives_no_boxes_is_none(kind: str) -> None:
    with pytest.raises(ServerFailed, match=r"chextriev_v6_located gives embedding, finding_logits; .*box_confidence"):
        ask_client(kind, LocatingServer(outputs=()), lambda client: client.embed(bare(1)))


def image() -> RadiographImage:
    return RadiographImage("image", np.add.outer(np.arange(90), np.arange(80)).astype(np.uint8))


def test_the_mean_layout_is_used_where_it_is_asked_for_and_said() -> None:
    sent = as_file(image().located())
    np.testing.assert_array_equal(sent.boxes.xyxy, MeanLayout().locate([image().pixels]).boxes[0].xyxy)
    assert sent.boxes_source == MeanLayout().source
    server = FakeServer()
    server._answer = lambda call: {  # type: ignore[method-assign]
        "embedding": np.zeros((1, 2), np.float32),
        "finding_logits": np.zeros((1, 9), np.float32),
    }
    found = ask_client("threads", server, lambda client: client.embed(image().located()))
    assert found.boxes_source == (MeanLayout().source,)
    np.testing.assert_array_equal(found.boxes[0], sent.boxes.xyxy)


@pytest.mark.parametrize("form", ["path", "words", "bytes", "function", "image"])
def test_a_dicom_file_never_travels(tmp_path: Path, form: str) -> None:
    content = as_bytes(data_set())
    path = tmp_path / "chest.dcm"
    path.write_bytes(content)
    source: Any = {
        "path": path,
        "words": str(path),
        "bytes": memoryview(content),
        "function": lambda: path,
        "image": read_image(path),
    }[form]
    sent = as_file(source)
    assert sent.content.startswith(b"P5 80 96 255\n")
    assert not any(word in sent.content for word in (b"DICM", PLANTED.encode(), b"Planted"))
    assert sent.boxes is None
    assert sent.image_id == read_image(path).image_id
    np.testing.assert_array_equal(sent.decode_image().pixels, read_image(path).pixels)
    with pytest.raises(MissingRegion):
        sent.decode()


def test_a_picture_travels_as_it_is(tmp_path: Path) -> None:
    from PIL import Image

    path = tmp_path / "chest.png"
    Image.fromarray(image().pixels).save(path)
    for source, name in ((path, "chest"), (path.read_bytes(), "image")):
        sent = as_file(source)
        assert (sent.image_id, sent.content, sent.boxes) == (name, path.read_bytes(), None)
