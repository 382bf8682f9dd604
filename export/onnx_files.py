"""What is wrong with an ONNX file, said before a native parser sees it.

An ONNX file is a protobuf message. Its tensors may name other files (external data), which a runtime would open
wherever they lie, and no digest covers those. So the wire format (https://protobuf.dev/programming-guides/encoding) is
walked here in Python, message by message, by a table of ONNX's messages
(https://github.com/onnx/onnx/blob/main/onnx/onnx.proto); strings and the numbers of tensors are passed over unread.

The walk must not see less than the parser after it, so it refuses what it does not know: other fields than the table's
(a newer ONNX might hide a tensor there), the group encoding (which ONNX never uses), and a message where a number
belongs or the reverse.
"""

from typing import NamedTuple

from chextriev.errors import DamagedArtifact

SIZE_LIMIT = 2**31 - 1
"""Bytes; protobuf's own limit for a message."""

DEPTH_LIMIT = 64
"""Messages within messages: a tensor of the main graph is the third, each subgraph adds three; protobuf allows 100."""

FIELD_LIMIT = 1_000_000
"""Fields of all messages together, so that no file keeps the walk busy over 2 s; an engine of ResNet50 has 5,640."""

EXTERNAL = {("TensorProto", "external_data"), ("TensorProto", "data_location")}
"""Fields that put a tensor's numbers into another file; data_location 0 says that they are here."""

REQUIRED = ("ir_version", "graph", "opset_import")
"""Fields of the model that every ONNX file has; without them, other or truncated bytes could pass for one."""

_VARINT, _BYTES = 0, 2
_FIXED = {1: 8, 5: 4}  # wire type -> bytes


class Field(NamedTuple):
    """A field of a message; message: the type of its content, None for numbers and strings."""

    name: str
    message: str | None = None


def _fields(text: str) -> dict[int, Field]:
    """Read `number name` or `number name:Message`, with commas between."""
    entries = (entry.split() for entry in text.split(","))
    return {int(number): Field(*field.split(":")) for number, field in entries}


MESSAGES = {
    message: _fields(text)
    for message, text in {
        "ModelProto": "1 ir_version, 2 producer_name, 3 producer_version, 4 domain, 5 model_version, 6 doc_string,"
        "7 graph:GraphProto, 8 opset_import:OperatorSetIdProto, 14 metadata_props:StringStringEntryProto,"
        "20 training_info:TrainingInfoProto, 25 functions:FunctionProto, 26 configuration:DeviceConfigurationProto",
        "GraphProto": "1 node:NodeProto, 2 name, 5 initializer:TensorProto, 10 doc_string, 11 input:ValueInfoProto,"
        "12 output:ValueInfoProto, 13 value_info:ValueInfoProto, 14 quantization_annotation:TensorAnnotation,"
        "15 sparse_initializer:SparseTensorProto, 16 metadata_props:StringStringEntryProto",
        "FunctionProto": "1 name, 4 input, 5 output, 6 attribute, 7 node:NodeProto, 8 doc_string,"
        "9 opset_import:OperatorSetIdProto, 10 domain, 11 attribute_proto:AttributeProto, 12 value_info:ValueInfoProto,"
        "13 overload, 14 metadata_props:StringStringEntryProto",
        "TrainingInfoProto": "1 initialization:GraphProto, 2 algorithm:GraphProto,"
        "3 initialization_binding:StringStringEntryProto, 4 update_binding:StringStringEntryProto",
        "NodeProto": "1 input, 2 output, 3 name, 4 op_type, 5 attribute:AttributeProto, 6 doc_string, 7 domain,"
        "8 overload, 9 metadata_props:StringStringEntryProto, 10 device_configurations:NodeDeviceConfigurationProto",
        "AttributeProto": "1 name, 2 f, 3 i, 4 s, 5 t:TensorProto, 6 g:GraphProto, 7 floats, 8 ints, 9 strings,"
        "10 tensors:TensorProto, 11 graphs:GraphProto, 13 doc_string, 14 tp:TypeProto, 15 type_protos:TypeProto,"
        "20 type, 21 ref_attr_name, 22 sparse_tensor:SparseTensorProto, 23 sparse_tensors:SparseTensorProto",
        "TensorProto": "1 dims, 2 data_type, 3 segment:Segment, 4 float_data, 5 int32_data, 6 string_data,"
        "7 int64_data, 8 name, 9 raw_data, 10 double_data, 11 uint64_data, 12 doc_string,"
        "13 external_data:StringStringEntryProto, 14 data_location, 16 metadata_props:StringStringEntryProto",
        "SparseTensorProto": "1 values:TensorProto, 2 indices:TensorProto, 3 dims",
        "Segment": "1 begin, 2 end",
        "StringStringEntryProto": "1 key, 2 value",
        "OperatorSetIdProto": "1 domain, 2 version",
        "ValueInfoProto": "1 name, 2 type:TypeProto, 3 doc_string, 4 metadata_props:StringStringEntryProto",
        "TensorAnnotation": "1 tensor_name, 2 quant_parameter_tensor_names:StringStringEntryProto",
        "TypeProto": "1 tensor_type:Tensor, 4 sequence_type:Sequence, 5 map_type:Map, 6 denotation,"
        "7 opaque_type:Opaque, 8 sparse_tensor_type:SparseTensor, 9 optional_type:Optional",
        "Tensor": "1 elem_type, 2 shape:TensorShapeProto",
        "SparseTensor": "1 elem_type, 2 shape:TensorShapeProto",
        "Sequence": "1 elem_type:TypeProto",
        "Optional": "1 elem_type:TypeProto",
        "Map": "1 key_type, 2 value_type:TypeProto",
        "Opaque": "1 domain, 2 name",
        "TensorShapeProto": "1 dim:Dimension",
        "Dimension": "1 dim_value, 2 dim_param, 3 denotation",
        "DeviceConfigurationProto": "1 name, 2 num_devices, 3 device",
        "NodeDeviceConfigurationProto": "1 configuration_id, 2 sharding_spec:ShardingSpecProto, 3 pipeline_stage",
        "ShardingSpecProto": "1 tensor_name, 2 device, 3 index_to_device_group_map:IntIntListEntryProto,"
        "4 sharded_dim:ShardedDimProto",
        "IntIntListEntryProto": "1 key, 2 value",
        "ShardedDimProto": "1 axis, 2 simple_sharding:SimpleShardedDimProto",
        "SimpleShardedDimProto": "1 dim_value, 2 dim_param, 3 num_shards",
    }.items()
}
"""Message -> number -> field, as of ONNX 1.23; a test compares it with the installed onnx."""


def check_onnx(content: bytes, *, where: str) -> None:
    """Refuse an ONNX file that a runtime must not be given; where: what to call it in messages.

    DamagedArtifact for external data anywhere (initializers, attributes, subgraphs, functions, training graphs), for a
    file that is truncated, no ONNX model or of a newer ONNX, and for one over SIZE_LIMIT, DEPTH_LIMIT or FIELD_LIMIT.
    It need not be a model that makes sense: what operators do with their inputs is for the runtime to say.
    """
    if len(content) > SIZE_LIMIT:
        raise DamagedArtifact(f"{where} has {len(content):,} bytes; an ONNX file has at most {SIZE_LIMIT:,}")
    if content[4:8] == b"ORTM":  # ONNX Runtime goes by this mark alone, and the same bytes may pass for protobuf
        raise DamagedArtifact(f"{where} is a file in ONNX Runtime's own format; an ONNX file is needed here")
    found = _Walk(content, where).run()
    missing = [name for name in REQUIRED if name not in found]
    if missing:
        raise DamagedArtifact(f"{where} is not a whole ONNX file: it has no {missing[0]}; export it again")


class _Walk:
    """One pass over a file. position: of the byte to be read next."""

    def __init__(self, content: bytes, where: str) -> None:
        self._content, self._where, self._position = content, where, 0
        self._open = [("ModelProto", len(content))]  # the messages around the position, with their ends

    def run(self) -> set[str]:
        """The names of the model's own fields."""
        found, fields = set[str](), 0
        while self._open:
            message, end = self._open[-1]
            if self._position == end:
                self._open.pop()
                continue
            fields += 1
            if fields > FIELD_LIMIT:
                raise DamagedArtifact(f"{self._where} has over {FIELD_LIMIT:,} fields, more than any engine needs")
            name = self._step(message, end)
            if message == "ModelProto":
                found.add(name)
        return found

    def _step(self, message: str, end: int) -> str:
        """Read one field, or, if it is a message, what leads up to its content; its name."""
        tag = self._varint(end)
        number, wire = tag >> 3, tag & 7
        field = MESSAGES[message].get(number)
        if field is None:
            raise self._refusal(f"field {number} of {message} is not known: the file is no ONNX, or of a newer release")
        if wire == _VARINT:
            value, size = self._varint(end), 0
        else:
            value, size = 1, self._varint(end) if wire == _BYTES else self._fixed(wire)
        if (message, field.name) in EXTERNAL and value:
            raise self._refusal(f"{field.name} says that a tensor's numbers lie in another file (external data)")
        if self._position + size > end:
            raise self._refusal(f"{field.name} of {message} ends after the message that holds it")
        if field.message is None:
            self._position += size
        elif wire == _BYTES:
            self._enter(field.message, size)
        else:
            raise self._refusal(f"{field.name} of {message} is a number, not a {field.message}")
        return field.name

    def _enter(self, message: str, size: int) -> None:
        self._open.append((message, self._position + size))
        if len(self._open) > DEPTH_LIMIT:
            raise self._refusal(f"over {DEPTH_LIMIT} messages lie within one another")

    def _fixed(self, wire: int) -> int:
        if wire not in _FIXED:
            raise self._refusal(f"wire type {wire} is not used by ONNX")
        return _FIXED[wire]

    def _varint(self, end: int) -> int:
        """A number of 7 bits a byte, the lowest first, at most 10 bytes."""
        value = 0
        for shift in range(0, 70, 7):
            if self._position >= end:
                raise self._refusal("it ends within a number")
            byte = self._content[self._position]
            self._position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise self._refusal("a number has over 10 bytes")

    def _refusal(self, reason: str) -> DamagedArtifact:
        return DamagedArtifact(
            f"{self._where} is not an ONNX file that may be opened: at byte {self._position:,}, {reason}; export it"
            " again, as one file"
        )
