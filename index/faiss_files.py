"""Faiss files of strangers: what is compared before Faiss sees a byte of one.

The caller gives a stream whose digest it has compared; type, number, width and metric are read here, and Faiss may
make no array larger than the file.
"""

import os
import re
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from chextriev.errors import DamagedArtifact
from chextriev.index.faiss_structure import check_hash_structure, check_structure
from chextriev.optional import require

faiss = require("faiss", extra="index")

# The types that a spec may make and that are opened again: "fourcc", the first four bytes of a Faiss file.
FOURCCS = {
    b"IxFI": "Flat",
    b"IxSQ": "SQ",
    b"IxPq": "PQ",
    b"IPfs": "PQ fast scan",
    b"IwFl": "IVF Flat",
    b"IwSq": "IVF SQ",
    b"IwPQ": "IVF PQ",
    b"IwPf": "IVF PQ fast scan",
    b"IHNf": "HNSW Flat",
    b"IHNs": "HNSW SQ",
    b"IxRF": "Refine",
    b"IxPT": "OPQ or PCA",
}
HASH_FOURCCS = {b"IBxF": "BFlat", b"IBwF": "BIVF"}
KNOWN_TYPES = ", ".join(FOURCCS.values())
_HEADER = struct.Struct("<4siqqqBi")  # fourcc, width, number, two unused, is trained, metric
_HASH_HEADER = struct.Struct("<4siiqBi")  # fourcc, bits, bytes of a code, number, is trained, metric
_READ_BYTES = 4 << 20
_READING = threading.Lock()  # Faiss keeps its read limit in a global


def read_vectors(stream: BinaryIO, shape: tuple[int, int]) -> Any:
    """The Faiss index in this stream, which must hold this shape [N, D] of unit vectors. Raises DamagedArtifact."""
    name, start = stream.name, stream.read(_HEADER.size)
    if len(start) < _HEADER.size or start[:4] not in FOURCCS:
        raise DamagedArtifact(f"{name} is no Faiss file of a type known here ({KNOWN_TYPES}); build the index again")
    _, width, number, _, _, trained, metric = _HEADER.unpack(start)
    if (number, width) != shape or trained != 1 or metric != faiss.METRIC_INNER_PRODUCT:
        raise DamagedArtifact(
            f"{name} says {number} x {width} vectors, metric {metric}; its manifest {shape[0]} x {shape[1]}, "
            f"metric {faiss.METRIC_INNER_PRODUCT} (inner product); build the index again"
        )
    index = _read(stream, faiss.read_index)
    if (index.ntotal, index.d) != shape or not index.is_trained:
        raise DamagedArtifact(f"{name} holds {index.ntotal} x {index.d} vectors, not {shape[0]} x {shape[1]}")
    check_structure(index, name)
    return index


def read_codes(stream: BinaryIO, shape: tuple[int, int]) -> Any:
    """The binary Faiss index in this stream, which must hold this shape [N, bits]. Raises DamagedArtifact."""
    name, start = stream.name, stream.read(_HASH_HEADER.size)
    if len(start) < _HASH_HEADER.size or start[:4] not in HASH_FOURCCS:
        allowed = ", ".join(HASH_FOURCCS.values())
        raise DamagedArtifact(f"{name} is no binary Faiss file of a type known here ({allowed}); build the index again")
    _, bits, size, number, trained, _ = _HASH_HEADER.unpack(start)
    if (number, bits) != shape or size * 8 != bits or trained != 1:
        raise DamagedArtifact(
            f"{name} says {number} codes of {bits} bits in {size} bytes; its manifest {shape[0]} of {shape[1]} bits;"
            " build the index again"
        )
    index = _read(stream, faiss.read_index_binary)
    if (index.ntotal, index.d) != shape or not index.is_trained:
        raise DamagedArtifact(f"{name} holds {index.ntotal} codes of {index.d} bits, not {shape[0]} of {shape[1]}")
    check_hash_structure(index, name)
    return index


def _read(stream: BinaryIO, read: Any) -> Any:
    stream.seek(0)
    with _limited(os.fstat(stream.fileno()).st_size):
        try:
            return read(faiss.PyCallbackIOReader(stream.read, _READ_BYTES))
        except (RuntimeError, MemoryError) as error:
            raise DamagedArtifact(
                f"{stream.name}: Faiss cannot read it ({reason(error)}); build the index again"
            ) from error


@contextmanager
def _limited(size: int) -> Iterator[None]:
    """No array that Faiss reads is larger than its file, and no list longer."""
    with _READING:
        limit, loops = faiss.get_deserialization_vector_byte_limit(), faiss.get_deserialization_loop_limit()
        faiss.set_deserialization_vector_byte_limit(size)
        faiss.set_deserialization_loop_limit(size)
        try:
            yield
        finally:
            faiss.set_deserialization_vector_byte_limit(limit)
            faiss.set_deserialization_loop_limit(loops)


def write_file(write: Any, index: Any, path: Path) -> None:
    """Have Faiss write a file; OSError where it cannot, as on a full disk."""
    try:
        write(index, str(path))
    except RuntimeError as error:
        raise OSError(f"{path.name} cannot be written ({reason(error)}); is the disk full?") from error


def reason(error: Exception) -> str:
    """What Faiss says, without where in its source it says so."""
    text = str(error)
    for mark in ("failed: ", "Error: ", ".cpp:"):
        if mark in text:
            return re.sub(r"^\d+: ", "", text.split(mark, 1)[1].strip())
    return text
