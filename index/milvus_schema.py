"""What a Milvus collection holds: its fields, its index, and the card that says which encoder made its vectors."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from chextriev.anatomy import Finding
from chextriev.embedding_set import EmbeddingSet
from chextriev.errors import InvalidSetting, InvalidValue, NotAnArtifact
from chextriev.index.spec import EXACT, EXACT_BELOW, IndexSpec
from chextriev.optional import require

_MIXED_KEY = "value"
CARD = "chextriev"  # the property of a collection that holds its card
SCHEMA = 1
ID, VECTOR = "id", "vector"
METRIC = "IP"  # of unit vectors it is the cosine, and every index type has it
TEXT, INTEGER, NUMBER, TRUTH, MIXED = "text", "integer", "number", "truth", "mixed"
ID_BYTES, TEXT_BYTES = 1024, 65_535
_INTEGERS = {1: "INT8", 2: "INT16", 4: "INT32", 8: "INT64"}
_RESERVED = {ID, VECTOR, "RowID", "Timestamp"}
ALLOWED = (
    "'Flat', 'IVF1024,Flat', 'IVF1024,PQ64x4' (with ',RFlat' or ',Refine(...)' to score candidates again), 'HNSW32'"
)
_IVF_PQ = re.compile(r"IVF(\d+)(?:_HNSW\d+)?,PQ(\d+)(?:x(\d+))?(?:fsr?|np)?(,RFlat|,Refine\(\w+\))?")
EF_CONSTRUCTION = 200
MAX_LISTS = 65_536


@dataclass(frozen=True)
class Column:
    """A column of the embeddings in Milvus. field: its name there. kind: of its values. bytes: of an integer."""

    field: str
    kind: str
    bytes: int = 0

    def __post_init__(self) -> None:
        if self.kind not in (TEXT, INTEGER, NUMBER, TRUTH, MIXED) or not re.fullmatch(
            r"[A-Za-z_]\w{0,254}", self.field
        ):
            raise InvalidSetting(f"column {self.field!r} of kind {self.kind!r} is none that a collection can have")


@dataclass(frozen=True)
class Card:
    """What a collection says of itself. columns: by the name in the embeddings; ids: "text" or "integer"."""

    encoder: str
    width: int
    spec: IndexSpec
    ids: str
    columns: Mapping[str, Column]
    device: str = "cpu"

    def to_json(self) -> str:
        """The text of the property."""
        return json.dumps({"schema": SCHEMA, **asdict(self)}, ensure_ascii=True)

    @property
    def findings(self) -> list[str]:
        """The fields of the nine findings, in order."""
        return [finding_field(finding) for finding in Finding]

    @property
    def fields(self) -> list[str]:
        """What a search asks for beside the id."""
        return [VECTOR, *self.findings, *(column.field for column in self.columns.values())]


def read_card(properties: Mapping[str, Any], where: str) -> Card:
    """The card of a collection; NotAnArtifact where it has none that this package wrote."""
    try:
        fields = json.loads(properties[CARD])
        if fields.pop("schema") != SCHEMA:
            raise ValueError("written by another release")
        spec = IndexSpec(**fields.pop("spec"))
        columns = {name: Column(**column) for name, column in fields.pop("columns").items()}
        card = Card(spec=spec, columns=columns, **fields)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise NotAnArtifact(
            f"{where} is no collection of chextriev ({error!s:.100}); build it with this package"
        ) from None
    if card.ids not in (TEXT, INTEGER) or not isinstance(card.encoder, str) or not isinstance(card.width, int):
        raise NotAnArtifact(f"{where} is no collection of chextriev (its card is not one); build it with this package")
    return card


def card_of(embeddings: EmbeddingSet, spec: IndexSpec, device: str) -> Card:
    """The card of a collection for these embeddings."""
    columns: dict[str, Column] = {}
    for name, values in text_columns(embeddings).items():
        taken = _RESERVED | {finding_field(finding) for finding in Finding} | {each.field for each in columns.values()}
        kind = TEXT if name in ("study_id", "patient_id") else kind_of(values)
        size = min(8, values.dtype.itemsize * (2 if values.dtype.kind == "u" else 1)) if kind == INTEGER else 0
        columns[name] = Column(_field_name(name, taken), kind, size)
    ids = kind_of(embeddings.image_id)
    if ids == MIXED and all(isinstance(each, int | np.integer) for each in embeddings.image_id):
        ids = INTEGER
    if ids not in (TEXT, INTEGER):
        raise InvalidValue(f"image ids are of type {embeddings.image_id.dtype}; they must all be text, or all integers")
    return Card(embeddings.encoder_digest, embeddings.vectors.shape[1], spec, ids, columns, device)


def text_columns(embeddings: EmbeddingSet) -> dict[str, npt.NDArray[Any]]:
    """The columns beside image id and findings, by name."""
    return {"study_id": embeddings.study_id, "patient_id": embeddings.patient_id, **embeddings.metadata}


def kind_of(values: npt.NDArray[Any]) -> str:
    """The kind of a column: by its type, and where that is object by what it holds."""
    kind = {"i": INTEGER, "u": INTEGER, "f": NUMBER, "b": TRUTH, "U": TEXT, "M": TEXT}.get(values.dtype.kind, MIXED)
    if kind == MIXED and all(value is None or isinstance(value, str) for value in values):
        return TEXT
    return kind


def plain_values(values: npt.NDArray[Any], column: Column) -> list[Any]:
    """A column as Milvus takes it.

    Text unknown is "", because not every Milvus has fields without a value. A value of a mixed column is in an object,
    because pymilvus takes a text for JSON already; what JSON does not have becomes text.
    """
    if column.kind == TEXT:
        return ["" if _is_unknown(value) else str(value) for value in values]
    if column.kind == MIXED:
        return [json.loads(json.dumps({_MIXED_KEY: value}, default=str)) for value in values]
    return list(values.tolist())


def known(value: Any, column: Column) -> Any:
    """A value that Milvus gave back: None for a text that is unknown, and for what is no number."""
    if column.kind == TEXT:
        return value or None
    if column.kind == MIXED:
        return value[_MIXED_KEY]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def finding_field(finding: Finding) -> str:
    """The field of a finding, such as finding_pulmonary_edema_hazy_opacity."""
    return "finding_" + re.sub(r"\W", "_", finding.label)


def collection_schema(card: Card) -> Any:
    """The fields, as pymilvus has them."""
    pymilvus = require("pymilvus", extra="milvus")
    types, schema = pymilvus.DataType, pymilvus.MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    if card.ids == TEXT:
        schema.add_field(ID, types.VARCHAR, is_primary=True, max_length=ID_BYTES)
    else:
        schema.add_field(ID, types.INT64, is_primary=True)
    schema.add_field(VECTOR, types.FLOAT_VECTOR, dim=card.width)
    for field in card.findings:
        schema.add_field(field, types.INT8)
    plain = {NUMBER: types.DOUBLE, TRUTH: types.BOOL, MIXED: types.JSON}
    for column in card.columns.values():
        if column.kind == TEXT:
            schema.add_field(column.field, types.VARCHAR, max_length=TEXT_BYTES)
        elif column.kind == INTEGER:
            schema.add_field(column.field, getattr(types, _INTEGERS[column.bytes]))
        else:
            schema.add_field(column.field, plain[column.kind])
    return schema


def index_parameters(spec: IndexSpec, width: int, device: str = "cpu") -> tuple[str, dict[str, Any]]:
    """Milvus's index type of a spec, and how to build it. Raises InvalidSetting for what Milvus does not have."""
    if device not in ("cpu", "cuda"):
        raise InvalidSetting(f"device {device!r}; choose one of cpu, cuda")
    found = _IVF_PQ.fullmatch(spec.factory)
    if found:
        lists, parts, bits = int(found[1]), int(found[2]), int(found[3] or 8)
        if width % parts:
            raise InvalidSetting(f"index spec {spec.factory!r}: a width of {width} is not {parts} equal parts")
        _check_lists(lists, spec)
        return "GPU_IVF_PQ" if device == "cuda" else "IVF_PQ", {"nlist": lists, "m": parts, "nbits": bits}
    if device == "cuda":
        raise InvalidSetting(f"index spec {spec.factory!r} on cuda: Milvus has 'IVF1024,PQ64' and the like there")
    if spec.factory == "Flat":
        return "FLAT", {}
    if found := re.fullmatch(r"IVF(\d+),Flat", spec.factory):
        _check_lists(int(found[1]), spec)
        return "IVF_FLAT", {"nlist": int(found[1])}
    if found := re.fullmatch(r"HNSW(\d+)(,Flat)?", spec.factory):
        if not 2 <= int(found[1]) <= 2048:
            raise InvalidSetting(f"index spec {spec.factory!r}: Milvus takes HNSW2 to HNSW2048")
        return "HNSW", {"M": int(found[1]), "efConstruction": EF_CONSTRUCTION}
    raise InvalidSetting(f"index spec {spec.factory!r} has no counterpart in Milvus; choose one like {ALLOWED}")


def default_spec(n: int, width: int, *, lite: bool = False) -> IndexSpec:
    """Exact below 20,000 vectors, else IVF-PQ with candidates scored again, in milvus-lite, which has none, a graph."""
    if n < EXACT_BELOW:
        return IndexSpec(EXACT, auto=True)
    part = next((size for size in (4, 3, 5, 2, 6, 7, 8) if width % size == 0), None)
    if lite or part is None:
        return IndexSpec("HNSW32", auto=True)
    lists = min(MAX_LISTS, 2 ** round(math.log2(4 * math.sqrt(n))))
    return IndexSpec(f"IVF{lists},PQ{width // part}x4,Refine(SQfp16)", nprobe=max(32, lists // 32), auto=True)


def candidates_per_hit(spec: IndexSpec) -> int:
    """How many candidates are scored again for each result: the spec's rerank where it has a Refine stage, else 1."""
    found = _IVF_PQ.fullmatch(spec.factory)
    return spec.rerank if found and found[4] else 1


def _check_lists(lists: int, spec: IndexSpec) -> None:
    if not 1 <= lists <= MAX_LISTS:
        raise InvalidSetting(f"index spec {spec.factory!r}: Milvus takes 1 to {MAX_LISTS:,} lists")


def _field_name(name: str, taken: set[str]) -> str:
    field = re.sub(r"\W", "_", name, flags=re.ASCII)[:200]
    field = field if re.match(r"[A-Za-z_]", field) else f"_{field}"
    while field in taken:
        field += "_"
    return field


def _is_unknown(value: Any) -> bool:
    return value is None or (isinstance(value, np.datetime64) and bool(np.isnat(value)))
