"""No runtime is given an ONNX file that reaches for other files, is broken, or is something else."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from chextriev.errors import DamagedArtifact
from chextriev.export import onnx_files
from chextriev.export.onnx_files import DEPTH_LIMIT, MESSAGES, check_onnx

ORDER = settings(deadline=None, max_examples=400)


def tensor(name: str, *, external: bool = False) -> TensorProto:
    made = numpy_helper.from_array(np.arange(4, dtype=np.float32), name)
    if external:
        made.ClearField("raw_data")
        made.data_location = TensorProto.EXTERNAL
        made.external_data.add(key="location", value="../../elsewhere")
    return made


def constant_of(value: TensorProto) -> onnx.GraphProto:
    node = helper.make_node("Constant", [], ["c"], value=value)
    return helper.make_graph([node], "constant", [], [helper.make_tensor_value_info("c", TensorProto.FLOAT, [4])])


def branching_model(branch: TensorProto | None = None) -> onnx.ModelProto:
    """`condition ? x + initializer : branch`, with a subgraph for each."""
    then = helper.make_graph(
        [helper.make_node("Add", ["x", "initializer"], ["sum"])],
        "then",
        [],
        [helper.make_tensor_value_info("sum", TensorProto.FLOAT, [4])],
    )
    node = helper.make_node(
        "If", ["condition"], ["y"], then_branch=then, else_branch=constant_of(branch or tensor("branch"))
    )
    graph = helper.make_graph(
        [node],
        "main",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows"]),
            helper.make_tensor_value_info("condition", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows"])],
        [tensor("initializer")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


MODEL = branching_model().SerializeToString()
EXTERNAL = branching_model(tensor("branch", external=True)).SerializeToString()


def messages_below(found: Descriptor, seen: dict[str, Descriptor]) -> dict[str, Descriptor]:
    if found.name not in seen:
        seen[found.name] = found
        for field in found.fields:
            if field.message_type:
                messages_below(field.message_type, seen)
    return seen


def paths_to_tensors(at: Descriptor, passed: tuple[str, ...] = ()) -> Iterator[list[FieldDescriptor]]:
    """Every way from a message to a tensor, through no field twice."""
    for field in at.fields:
        if field.message_type is None or field.full_name in passed:
            continue
        if field.message_type.name == "TensorProto":
            yield [field]
        else:
            onwards = paths_to_tensors(field.message_type, (*passed, field.full_name))
            yield from ([field, *rest] for rest in onwards)


def tensors_in(message: Message) -> Iterator[Message]:
    if message.DESCRIPTOR.name == "TensorProto":
        yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if field.is_repeated else [value]:
                yield from tensors_in(part)


def has_external_data(model: onnx.ModelProto) -> bool:
    return any(found.external_data or found.data_location for found in tensors_in(model))


def refused(content: bytes) -> bool:
    try:
        check_onnx(content, where="the model")
    except DamagedArtifact:
        return True
    return False


def test_the_table_is_that_of_the_installed_onnx() -> None:
    theirs = {
        name: {field.number: (field.name, field.message_type and field.message_type.name) for field in found.fields}
        for name, found in messages_below(onnx.ModelProto.DESCRIPTOR, {}).items()
    }
    assert {name: dict(fields) for name, fields in MESSAGES.items()} == theirs


def test_a_sound_model_passes_and_runs() -> None:
    check_onnx(MODEL, where="the model")
    session = onnxruntime.InferenceSession(MODEL, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": np.ones(4, np.float32), "condition": np.array(True)})
    assert y.tolist() == [1, 2, 3, 4]


def test_external_data_as_onnx_writes_it_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(branching_model(), path, save_as_external_data=True, size_threshold=0, convert_attribute=True)
    assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(DamagedArtifact, match=r"model\.onnx is not .*another file \(external data\); export it again"):
        check_onnx(path.read_bytes(), where=str(path))
    whole = onnx.load(path)
    check_onnx(whole.SerializeToString(), where="with the data loaded")


def test_external_data_in_a_subgraphs_constant_is_refused() -> None:
    with pytest.raises(DamagedArtifact, match="external data"):
        check_onnx(EXTERNAL, where="the model")


def test_external_data_is_refused_wherever_a_tensor_may_stand() -> None:
    paths = list(paths_to_tensors(onnx.ModelProto.DESCRIPTOR))
    names = {" ".join(field.name for field in path) for path in paths}
    assert {
        "graph initializer",
        "graph sparse_initializer values",
        "graph node attribute t",
        "graph node attribute graphs sparse_initializer indices",
        "functions node attribute sparse_tensors values",
        "functions attribute_proto tensors",
        "training_info algorithm initializer",
    } <= names
    for path in paths:
        for mark in ("both", "data_location", "external_data"):
            model = branching_model()
            place: Message = model
            for field in path:
                part = getattr(place, field.name)
                place = part.add() if field.is_repeated else part
            place.CopyFrom(tensor("far", external=True))
            if mark != "both":
                place.ClearField({"data_location": "external_data", "external_data": "data_location"}[mark])
            with pytest.raises(DamagedArtifact, match="external data"):
                check_onnx(model.SerializeToString(), where="the model")


@pytest.mark.parametrize("value", [b"\x01", b"\x81\x80\x80\x80\x10", b"\x81\x00", b"\x02"])
def test_a_data_location_is_refused_however_it_is_written(value: bytes) -> None:
    """The second is 2**32 + 1, of which parsers of 32 bits keep the 1."""
    place = b"\x70" + value
    graph = b"\x2a" + bytes([len(place)]) + place
    content = b"\x08\x0a\x3a" + bytes([len(graph)]) + graph + b"\x42\x02\x10\x12"
    with pytest.raises(DamagedArtifact, match="external data"):
        check_onnx(content, where="the model")
    inside = content.replace(place, b"\x70" + b"\x80" * (len(value) - 1) + b"\x00")
    check_onnx(inside, where="the model whose data_location is 0")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no ir_version"),
        (b"\x08\x0a", "no graph"),
        (MODEL[:-1], "ends"),
        (MODEL[: len(MODEL) // 2], "ends"),
        (MODEL + b"\x08", "ends within a number"),
        (MODEL + b"\x08" + b"\xff" * 11, "over 10 bytes"),
        (MODEL + b"\x0b\x0c", "wire type 3"),
        (MODEL + b"\xfa\x01\x00", "field 31 of ModelProto is not known"),
        (MODEL + b"\x02\x00", "field 0 of ModelProto"),
        (MODEL + b"\x38\x01", "graph of ModelProto is a number"),
        (b"\x12\x08..ORTM..", "ONNX Runtime's own format"),
        (b"PK\x03\x04 a zip file", "the model is not"),
        (b"<!DOCTYPE html>", "the model is not"),
    ],
)
def test_what_is_no_whole_onnx_file_is_refused_in_words(content: bytes, reason: str) -> None:
    with pytest.raises(DamagedArtifact, match=reason):
        check_onnx(content, where="the model")


@pytest.mark.parametrize(("limit", "reason"), [("SIZE_LIMIT", "an ONNX file has at most"), ("FIELD_LIMIT", "fields")])
def test_limits_are_stated(limit: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_files, limit, 40)
    with pytest.raises(DamagedArtifact, match=reason):
        check_onnx(MODEL, where="the model")


def test_deep_nests_are_refused_and_moderate_ones_are_not() -> None:
    def nested(levels: int) -> bytes:
        graph = constant_of(tensor("innermost"))
        for _ in range(levels):
            node = helper.make_node("If", ["condition"], ["c"], then_branch=graph, else_branch=constant_of(tensor("c")))
            graph = helper.make_graph([node], "g", [], [helper.make_tensor_value_info("c", TensorProto.FLOAT, [4])])
        content: bytes = helper.make_model(graph).SerializeToString()
        return content

    levels = DEPTH_LIMIT // 3 - 2
    check_onnx(nested(levels), where="the model")
    with pytest.raises(DamagedArtifact, match=f"over {DEPTH_LIMIT} messages"):
        check_onnx(nested(levels + 2), where="the model")


@given(st.binary(max_size=300))
def test_random_bytes_are_refused_and_nothing_worse(content: bytes) -> None:
    assert refused(content)


def test_every_truncation_is_refused() -> None:
    assert all(refused(MODEL[:length]) for length in range(len(MODEL)))


@ORDER
@given(st.sampled_from([MODEL, EXTERNAL]), st.data())
def test_nothing_that_onnx_reads_as_external_passes_after_damage(model: bytes, data: st.DataObject) -> None:
    """Flipped bits, and pieces moved from anywhere to anywhere."""
    content = bytearray(model)
    for bit in data.draw(st.lists(st.integers(0, 8 * len(content) - 1), max_size=3)):
        content[bit // 8] ^= 1 << bit % 8
    if data.draw(st.booleans()):
        begin, length, place = (data.draw(st.integers(0, len(content))) for _ in range(3))
        content[place:place] = content[begin : begin + length % 40]
    if refused(bytes(content)):
        return
    try:
        read = onnx.ModelProto.FromString(bytes(content))
    except DecodeError:  # a string that is no UTF-8, say: for the runtime to refuse
        return
    assert not has_external_data(read)


def test_the_comparison_above_can_fail() -> None:
    assert has_external_data(onnx.ModelProto.FromString(EXTERNAL))
    assert not has_external_data(onnx.ModelProto.FromString(MODEL))
