"""One generation of an index: an immutable directory, and what is in it once every file was compared with its manifest.

index.faiss          the main part, as its spec says (index-codes.npy beside binary lists: the codes in order)
delta.faiss          radiographs added since, which every search compares with one by one
ids.parquet          ids, metadata and findings by row: those of the main part, then those of the delta
removed.npy          rows that are not found any more, int64, ascending
region_codes.npy, region_codes_delta.npy, region_codebooks.npy    see `region_codes`
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
import numpy.typing as npt

from chextriev.artifacts import (
    MANIFEST,
    Manifest,
    check_contents,
    manifest_bytes,
    open_verified,
    read_manifest,
    read_verified,
    verify_files,
)
from chextriev.embedding_set import IDS_FILE, parse_ids
from chextriev.errors import DamagedArtifact, NotAnArtifact
from chextriev.hits import ImageId
from chextriev.index.exact import Rows
from chextriev.index.faiss_files import read_codes, read_vectors
from chextriev.index.hash_index import HashIndex
from chextriev.index.region_codes import CODEBOOKS_FILE, RegionCodes, open_region_codes
from chextriev.index.spec import EXACT, EXACT_HASH, HALF, HAMMING, IndexSpec
from chextriev.index.vector_index import VectorIndex, faiss
from chextriev.row_file import parse_array

KIND = "index"
INDEX_FILE = "index.faiss"
CODES_FILE = "index-codes.npy"
DELTA_FILE = "delta.faiss"
REMOVED_FILE = "removed.npy"
NAME = re.compile(r"\d{6,12}-([0-9a-f]{12})")
"""Names of generations in a store: a number, and the first digits of the sha256 of the manifest as it was sealed."""
_HALF_PRECISION = re.compile(r"(^|^HNSW\d+[_,]|Refine\()SQfp16\)?$")  # lists hold differences to their centres
ID_COLUMNS = ("image_id", "study_id", "patient_id")
Part = VectorIndex | HashIndex


@dataclass(frozen=True, eq=False)
class Generation:
    """An opened generation.

    main, delta: rows 0.. and the rows after them, None where nothing was added. removed: rows [R] int64. columns: ids,
    metadata [N] and findings [N, 9] int8, by row.
    """

    directory: Path
    manifest: Manifest = field(repr=False)
    main: Part = field(repr=False)  # what is printed of an index tells of no radiograph
    delta: Part | None = field(repr=False)
    removed: Rows = field(repr=False)
    columns: dict[str, npt.NDArray[Any]] = field(repr=False)
    regions: RegionCodes | None = field(repr=False)

    @property
    def rows(self) -> int:
        """The number of rows, removed ones among them."""
        return len(self.main) + (0 if self.delta is None else len(self.delta))

    @property
    def encoder_digest(self) -> str:
        """The bundle whose vectors it holds, "" where nobody said."""
        return self.manifest.recipe.parents.get("encoder", "")

    def live(self) -> npt.NDArray[np.bool_]:
        """[N] bool: the rows that were not removed."""
        live = np.ones(self.rows, np.bool_)
        live[self.removed] = False
        return live

    def rows_by_id(self) -> dict[ImageId, int]:
        """Rows that can be found, by image id."""
        ids = self.columns["image_id"].tolist()
        return {ids[row]: row for row in np.flatnonzero(self.live()).tolist()}


def open_generation(directory: str | Path) -> Generation:
    """Open a generation, every file compared with its manifest before anything reads it.

    Raises NotAnArtifact if there is none, DamagedArtifact if a file is missing, altered or not what the manifest says.
    """
    directory = Path(directory)
    manifest = read_manifest(directory, KIND)
    check_name(directory)
    check_contents(directory, manifest)
    try:
        return _open(directory, manifest)
    except (KeyError, TypeError, ValueError, OverflowError, OSError) as error:
        if isinstance(error, DamagedArtifact | NotAnArtifact):
            raise
        raise DamagedArtifact(
            f"{directory} is not an index of this package ({error!s:.200}); build it again"
        ) from error


def check_name(directory: Path) -> None:
    """DamagedArtifact for a generation of a store whose manifest is not the one that it is named after.

    Also what a manifest's own digest does not cover: its measured facts, and one generation in the place of another.
    """
    named = NAME.fullmatch(directory.name)
    if named and manifest_digits(directory) != named[1]:
        raise DamagedArtifact(
            f"{directory / MANIFEST} is not the one that {directory.name} is named after; go back to another generation"
        )


def manifest_digits(directory: Path) -> str:
    """What a generation of a store is named after."""
    return hashlib.sha256(manifest_bytes(directory, KIND)).hexdigest()[:12]


def delta_spec(spec: IndexSpec) -> IndexSpec:
    """The exact index whose scores are those of the last stage of this one: in half precision where that is."""
    if spec.metric == HAMMING:
        return IndexSpec(EXACT_HASH, metric=HAMMING)
    return IndexSpec(HALF if _HALF_PRECISION.search(spec.factory) else EXACT)


def _open(directory: Path, manifest: Manifest) -> Generation:
    settings = manifest.recipe.settings
    spec = _spec(settings["spec"])
    if not all(isinstance(digest, str) for digest in manifest.recipe.parents.values()):
        raise ValueError("parents are no digests")
    n, added, width = (_count(settings, name) for name in ("n", "added", "width"))
    columns = parse_ids(read_verified(directory, manifest, IDS_FILE))
    columns.pop("row", None)
    _check_columns(columns)
    if any(len(column) != n + added for column in columns.values()):
        raise DamagedArtifact(f"{directory / IDS_FILE} has not {n + added} rows, as its manifest says")
    main = _open_part(directory, manifest, spec, (n, width))
    delta = None
    if added:
        delta = _open_part(directory, manifest, delta_spec(spec), (added, width), name=DELTA_FILE)
    removed = _removed(directory, manifest, n + added) if REMOVED_FILE in manifest.files else np.empty(0, np.int64)
    if len(removed) != _count(settings, "removed"):
        raise ValueError(f"{len(removed)} rows were removed, its manifest says {settings['removed']}")
    regions = None
    if CODEBOOKS_FILE in manifest.files:
        verify_files(directory, manifest, [name for name in manifest.files if name.startswith("region_")])
        regions = open_region_codes(directory, n, added)
    return Generation(directory, manifest, main, delta, removed, columns, regions)


def _spec(said: Any) -> IndexSpec:
    """The spec, every field of its own type."""
    spec = IndexSpec(**said)
    for name, usual in asdict(IndexSpec(EXACT)).items():
        value = getattr(spec, name)
        if type(value) is not type(usual) and not (name == "rerank" and type(value) is float):
            raise ValueError(f"spec: {name} = {value!r:.40}")
    return spec


def _check_columns(columns: Mapping[str, npt.NDArray[Any]]) -> None:
    """ValueError unless ids and metadata are of the types that searches read."""
    for name, column in columns.items():
        words = set(map(type, column)) if column.dtype.kind == "O" else None
        if name == "image_id":
            good = column.dtype.kind in "iu" if words is None else words <= {str}
        elif name in (*ID_COLUMNS, "view", "sex", "split"):
            good = words is not None and words <= {str, NoneType}
        else:
            good = column.dtype.kind in "iuf" or (name != "age" and (words or {bool}) <= {str, bool, NoneType})
        if not good or (name != "findings" and column.ndim != 1):
            raise ValueError(f"column {name!r:.80} holds {column.dtype}")
    missing = [name for name in (*ID_COLUMNS, "findings") if name not in columns]
    if missing:
        raise ValueError(f"{IDS_FILE} has no column {missing[0]}")


def _count(settings: Any, name: str) -> int:
    value = settings[name]
    if type(value) is not int or not 0 <= value < 2**40:
        raise ValueError(f"{name} = {value!r:.40} is not a number of rows or dimensions")
    return value


def _open_part(
    directory: Path, manifest: Manifest, spec: IndexSpec, shape: tuple[int, int], *, name: str = INDEX_FILE
) -> Part:
    with open_verified(directory, manifest, name) as stream:
        if spec.metric != HAMMING:
            return VectorIndex(spec, read_vectors(stream, shape))
        index = read_codes(stream, shape)
    if isinstance(index, faiss.IndexBinaryFlat):
        return HashIndex(spec, index, index)
    codes = parse_array(read_verified(directory, manifest, CODES_FILE), directory / CODES_FILE)
    if codes.dtype != np.uint8 or codes.shape != (shape[0], shape[1] // 8):
        raise DamagedArtifact(f"{directory / CODES_FILE} is not the codes of {shape[0]} radiographs; build it again")
    flat = faiss.IndexBinaryFlat(shape[1])
    flat.add(np.ascontiguousarray(codes))
    return HashIndex(spec, index, flat)


def _removed(directory: Path, manifest: Manifest, rows: int) -> Rows:
    removed = parse_array(read_verified(directory, manifest, REMOVED_FILE), directory / REMOVED_FILE)
    if removed.dtype != np.int64 or removed.ndim != 1 or np.any(np.diff(removed) <= 0):
        raise DamagedArtifact(f"{directory / REMOVED_FILE} is not a rising list of rows; make the index again")
    if len(removed) and not 0 <= removed[0] <= removed[-1] < rows:
        raise DamagedArtifact(f"{directory / REMOVED_FILE} names rows that the index has not; make the index again")
    return np.asarray(removed)
