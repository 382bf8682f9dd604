"""Scene graphs in bulk: from the zip as it was downloaded, or from a folder, over a few processes, in file order.

The zip is never unpacked: each worker reads its slice of members by offset, so that the file is read once, front to
back, and memory holds a few slices.
"""

import hashlib
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from chextriev.anatomy import N_FINDINGS, N_REGIONS
from chextriev.errors import BoxError, InputError, MissingFile, TruncatedArchive, UnreadableSceneGraph
from chextriev.progress import track, track_batches
from chextriev.train.pool import map_in_order
from chextriev.train.scene_graph import SUFFIX, SceneGraph, image_id_of, parse_scene_graph

SLICE = 128
"""Members a task: about 5 MB of JSON and 0.1 s, long against the cost of handing it over."""
POOL_FROM = 2048
"""Below this number of scene graphs, starting processes costs more than it saves."""
_MAX_BYTES = 64 * 2**20  # real ones have 40 kB; a larger member is refused before it is unpacked
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_ENCRYPTED = 0x1
# What zipfile and the file itself say of damage: NotImplementedError is of a version that no zip has, ValueError of
# names that are no text and of impossible places.
_ZIP_ERRORS = (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, ValueError, OverflowError, struct.error)


@dataclass(frozen=True)
class Member:
    """One scene graph: its name, size and CRC-32, and for a zip where its bytes lie."""

    name: str
    size: int
    crc: int
    offset: int = 0
    packed: int = 0
    method: int = zipfile.ZIP_STORED
    flags: int = 0


@dataclass(frozen=True)
class SceneGraphArchive:
    """A zip file or a folder of scene graphs, members in file order (a folder: by name)."""

    path: Path
    members: tuple[Member, ...]

    @property
    def digest(self) -> str:
        """Identity of the content: names, sizes and CRC-32s; equal for a zip and the folder it unpacks to."""
        lines = sorted(f"{Path(member.name).name}|{member.size}|{member.crc:08x}" for member in self.members)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def batches(self, *, workers: int | None = None) -> "Iterator[SceneGraphBatch]":
        """Parse every scene graph, in file order, with a progress bar."""
        slices = [
            SceneGraphArchive(self.path, self.members[first : first + SLICE])
            for first in range(0, len(self.members), SLICE)
        ]
        count = 1 if len(self.members) < POOL_FROM and workers is None else workers or _cores()
        done = map_in_order(read_slice, slices, workers=count)
        return track_batches(done, "scene graphs", size=len, total=len(self.members), unit="graph")


@dataclass(frozen=True, eq=False)
class SceneGraphBatch:
    """Columns of B scene graphs, compact enough to pass between processes, and those that could not be used."""

    image_id: list[str]
    viewpoint: list[str]
    sex: list[str | None]
    age: npt.NDArray[np.int16]  # [B] years, -1 unknown
    boxes_xyxy: npt.NDArray[np.float32]  # [B, 18, 4] pixels
    region_findings: npt.NDArray[np.int8]  # [B, 18, 9] 1 or 0
    refused: list[tuple[str, InputError]]  # image id, why

    def __len__(self) -> int:
        return len(self.image_id) + len(self.refused)


def open_archive(path: Path) -> SceneGraphArchive:
    """List the scene graphs of a zip file or a folder.

    Raises TruncatedArchive if the zip is cut short or not a zip, MissingFile if it holds no scene graph.
    """
    members = _folder_members(path) if path.is_dir() else _zip_members(path)
    if not members:
        raise MissingFile(f"{path} holds no *{SUFFIX}; the silver set of Chest ImaGenome is needed")
    return SceneGraphArchive(path, tuple(members))


def read_slice(part: SceneGraphArchive) -> SceneGraphBatch:
    """Read and parse the members of one slice: the work of one task."""
    graphs: list[SceneGraph] = []
    refused: list[tuple[str, InputError]] = []
    for member, content in _contents(part):
        try:
            if isinstance(content, InputError):
                raise content
            graphs.append(parse_scene_graph(content, where=f"{part.path.name}: {member.name}"))
        except (BoxError, UnreadableSceneGraph) as error:
            refused.append((image_id_of(member.name), error))
    return _columns(graphs, refused)


def _columns(graphs: list[SceneGraph], refused: list[tuple[str, InputError]]) -> SceneGraphBatch:
    boxes = [graph.boxes.xyxy for graph in graphs]
    findings = [graph.region_findings for graph in graphs]
    return SceneGraphBatch(
        image_id=[graph.image_id for graph in graphs],
        viewpoint=[graph.viewpoint for graph in graphs],
        sex=[graph.sex for graph in graphs],
        age=np.asarray([graph.age for graph in graphs], dtype=np.int16),
        boxes_xyxy=np.asarray(boxes, dtype=np.float32).reshape(-1, N_REGIONS, 4),
        region_findings=np.asarray(findings, dtype=np.int8).reshape(-1, N_REGIONS, N_FINDINGS),
        refused=refused,
    )


def _zip_members(path: Path) -> list[Member]:
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except _ZIP_ERRORS as error:
        raise TruncatedArchive(f"{path} is not a whole zip file ({error}); fetch it again") from None
    if any(info.header_offset < 0 for info in infos):
        raise TruncatedArchive(f"{path} is not a whole zip file (its beginning is missing); fetch it again")
    members = [
        Member(i.filename, i.file_size, i.CRC, i.header_offset, i.compress_size, i.compress_type, i.flag_bits)
        for i in infos
        if _is_scene_graph(i.filename)
    ]
    return sorted(members, key=lambda member: member.offset)


def _folder_members(path: Path) -> list[Member]:
    with os.scandir(path) as entries:
        names = sorted(entry.name for entry in entries if _is_scene_graph(entry.name))
    members = []
    for name in track(names, "checksums of scene graphs", unit="graph"):
        content = (path / name).read_bytes()
        members.append(Member(name, len(content), zlib.crc32(content)))
    return members


def _is_scene_graph(name: str) -> bool:
    """Whether a name is a scene graph's; macOS adds `._` shadows to zip files."""
    base = name.rpartition("/")[2]
    return base.endswith(SUFFIX) and not base.startswith("._")


def _contents(part: SceneGraphArchive) -> Iterator[tuple[Member, bytes | InputError]]:
    if part.path.is_dir():
        for member in part.members:
            yield member, (part.path / member.name).read_bytes()
        return
    with part.path.open("rb", buffering=2**20) as stream:
        for member in part.members:
            where = f"{part.path.name}: {member.name}"
            try:
                content = _unpack(stream, member, where=where)
            except (OSError, ValueError, OverflowError) as error:
                raise TruncatedArchive(
                    f"{where}: cannot be read at byte {member.offset} ({error}); fetch the zip again"
                ) from None
            yield member, content


def _unpack(stream: BinaryIO, member: Member, *, where: str) -> bytes | InputError:
    """The content of a zip member, checked by size and CRC-32, or what is wrong with it."""
    if member.flags & _ENCRYPTED or member.method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return UnreadableSceneGraph(f"{where}: encrypted or compressed by method {member.method}; deflate is needed")
    if max(member.size, member.packed) > _MAX_BYTES:
        size = max(member.size, member.packed)
        return UnreadableSceneGraph(f"{where}: {size} bytes; at most {_MAX_BYTES} are read")
    stream.seek(member.offset)
    try:
        signature, name_length, extra_length = _LOCAL_HEADER.unpack(stream.read(_LOCAL_HEADER.size))
        stream.seek(name_length + extra_length, os.SEEK_CUR)
        content = stream.read(member.packed)
        if member.method == zipfile.ZIP_DEFLATED:
            content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, member.size + 1)
    except (struct.error, zlib.error) as error:
        return UnreadableSceneGraph(f"{where}: damaged in the zip ({error}); fetch the zip again")
    if signature != b"PK\x03\x04" or len(content) != member.size or zlib.crc32(content) != member.crc:
        return UnreadableSceneGraph(f"{where}: damaged in the zip (checksum); fetch the zip again")
    return content


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
