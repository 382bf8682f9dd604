"""The feature cache on disk: how it is written, and how it is read.

A directory of kind "region features": `store.json` (the key: all that the features depend on), shards
`features-00000.npy` [<= 512, crops, width] with rows in the order of the study table (NaN where there are none),
`quarantine.csv` (row, image id, reason, detail) and, once complete, a manifest. Each shard appears whole or
not at all. Features are float16; the grey crops themselves, for systems that train their own convolutions, are uint8 (0
where there are none). Rows are read from the files one by one: memory holds what was asked for, however large the
store.

float16 keeps 11 significant bits: a value is off by at most `FLOAT16_RELATIVE_ERROR` of itself, and below
6.1e-5 in size by at most `FLOAT16_ABSOLUTE_ERROR`.
"""

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from chextriev.artifacts import (
    MANIFEST,
    Manifest,
    check_output,
    read_manifest,
    reap_scratch,
    scratch_files,
    verify_files,
    write_bytes,
    write_text,
)
from chextriev.errors import (
    DamagedArtifact,
    InvalidSetting,
    InvalidValue,
    OtherBackbone,
    OtherStudyTable,
    OutputExists,
    UnreadableImage,
)
from chextriev.refusals import Refusal, write_refusals

KIND = "region features"
STORE_FILE = "store.json"
QUARANTINE_FILE = "quarantine.csv"
FLOAT16_RELATIVE_ERROR = 2.0**-11
FLOAT16_ABSOLUTE_ERROR = 2.0**-25

_OWN_FILES = rf"features-\d{{5,}}\.npy|{re.escape(STORE_FILE)}|{re.escape(QUARANTINE_FILE)}|{re.escape(MANIFEST)}"

Stored = npt.NDArray[np.float16] | npt.NDArray[np.uint8]
Shard = Stored  # [rows, crops, width]
Row = Stored  # [crops, width]


@dataclass(frozen=True)
class StoreKey:
    """All that the content of a store depends on."""

    backbone: str
    backbone_digest: str
    crops_digest: str
    table_digest: str
    image_ids_digest: str
    radiographs: int
    width: int
    shard_rows: int
    crops: int
    dtype: str

    @property
    def shards(self) -> int:
        """Number of shards of the complete store."""
        return -(-self.radiographs // self.shard_rows)

    def shape_of(self, shard: int) -> tuple[int, int, int]:
        """Shape of a shard; the last one may be short."""
        rows = min(self.shard_rows, self.radiographs - shard * self.shard_rows)
        return rows, self.crops, self.width

    def check_same(self, wanted: "StoreKey", directory: Path) -> None:
        """Raise the error that names what differs between the store's key (this one) and the wanted one."""
        cure = "choose another output, or delete that directory"
        mine, other = (
            f"{key.backbone} {key.backbone_digest[:12]} on crops {key.crops_digest[:12]}" for key in (self, wanted)
        )
        if mine != other or self.width != wanted.width:
            raise OtherBackbone(f"{directory} holds features of {mine}, asked for are those of {other}; {cure}")
        mine, other = (f"{key.table_digest[:12]} ({key.radiographs:,} radiographs)" for key in (self, wanted))
        if mine != other or self.image_ids_digest != wanted.image_ids_digest:
            raise OtherStudyTable(f"{directory} holds features of study table {mine}, this one is {other}; {cure}")
        if self != wanted:
            raise InvalidSetting(
                f"{directory} was begun with {self.shard_rows} rows a shard, not {wanted.shard_rows}; {cure}"
            )


class StoreWriter:
    """A store that grows by whole shards.

    next_shard: the first that is not there yet. refusals: of the rows before it.
    """

    def __init__(self, directory: Path, key: StoreKey) -> None:
        self.directory, self.key = directory, key
        if (directory / STORE_FILE).exists():
            _read_key(directory, refused=OutputExists).check_same(key, directory)
        else:
            _check_fresh(directory)
            directory.mkdir(parents=True, exist_ok=True)
            write_text(directory / STORE_FILE, json.dumps(asdict(key), indent=2) + "\n")
        reap_scratch(directory, _OWN_FILES)
        self.next_shard = self._count_whole()
        recorded = _read_quarantine(directory)
        self.refusals = [refusal for refusal in recorded if refusal.row < self.next_row]
        if self.refusals != recorded or not (directory / QUARANTINE_FILE).exists():
            self._write_quarantine()

    @property
    def next_row(self) -> int:
        """The first row that is not in a whole shard."""
        return min(self.next_shard * self.key.shard_rows, self.key.radiographs)

    def append(self, features: Shard, refusals: Sequence[Refusal]) -> None:
        """Write the next shard; its refusals first, so that a shard on disk always has them beside it."""
        self.refusals.extend(refusals)
        done = self.next_row + len(features)
        if len(self.refusals) == done:
            raise UnreadableImage(
                f"none of the first {done:,} radiographs of the study table can be used; the first, image"
                f" {self.refusals[0].image_id}: {self.refusals[0].detail}; check where its images are"
            )
        if refusals:
            self._write_quarantine()
        self._write_shard(self.next_shard, features)
        self.next_shard += 1

    def amend(self, shard: int, results: Mapping[int, Row | Refusal]) -> None:
        """Put what a second reading gave for refused rows of a whole shard in place.

        The manifest goes first and the quarantine changes last: whoever is killed between leaves an incomplete store in
        which rows with features may still count as refused, and these are read again.
        """
        (self.directory / MANIFEST).unlink(missing_ok=True)
        features = {row: result for row, result in results.items() if not isinstance(result, Refusal)}
        if features:
            content: Shard = np.load(_shard_path(self.directory, shard), allow_pickle=False)
            content[[row - shard * self.key.shard_rows for row in features]] = list(features.values())
            self._write_shard(shard, content)
        self.refusals = [refusal for refusal in self.refusals if refusal.row not in results]
        self.refusals += [result for result in results.values() if isinstance(result, Refusal)]
        self.refusals.sort(key=lambda refusal: refusal.row)
        self._write_quarantine()

    def _write_shard(self, shard: int, features: Shard) -> None:
        content = io.BytesIO()
        np.save(content, features, allow_pickle=False)
        write_bytes(_shard_path(self.directory, shard), content.getvalue())

    def _count_whole(self) -> int:
        for shard in range(self.key.shards):
            if not _is_whole(_shard_path(self.directory, shard), self.key.shape_of(shard), self.key.dtype):
                return shard
        return self.key.shards

    def _write_quarantine(self) -> None:
        write_refusals(self.refusals, self.directory / QUARANTINE_FILE)


class RegionFeatures:
    """A complete store.

    width: features a crop. available: [N] bool, False for radiographs in quarantine. digest: of this artefact.
    """

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        self.directory, self.manifest, self.digest = directory, manifest, manifest.digest
        self.key = _read_key(directory, refused=DamagedArtifact)
        self.backbone, self.backbone_digest = self.key.backbone, self.key.backbone_digest
        self.crops_digest, self.table_digest = self.key.crops_digest, self.key.table_digest
        self.width = self.key.width
        self.available: npt.NDArray[np.bool_] = np.ones(self.key.radiographs, bool)
        self.available[[refusal.row for refusal in _read_quarantine(directory)]] = False

    def __len__(self) -> int:
        return self.key.radiographs

    @property
    def crops(self) -> dict[str, Any]:
        """What was cropped: the settings of a CropSpec."""
        return dict(self.manifest.recipe.settings["crops"])

    def rows(self, indices: npt.ArrayLike) -> npt.NDArray[Any]:
        """Features [B, crops, width] of B rows of the study table, in any order: float32, or uint8 of stored crops.

        Raises InvalidValue for a row outside the table or in quarantine.
        """
        wanted = np.asarray(indices, np.int64)
        self._check_rows(wanted)
        shards, positions = np.divmod(wanted, self.key.shard_rows)
        stored = np.empty((len(wanted), self.key.crops, self.width), self.key.dtype)
        for shard in np.unique(shards):
            with _shard_path(self.directory, int(shard)).open("rb") as stream:
                begin = _content_offset(stream)
                for place in np.flatnonzero(shards == shard):
                    stream.seek(begin + int(positions[place]) * stored[0].nbytes)
                    if stream.readinto(stored[place].data) != stored[place].nbytes:
                        raise DamagedArtifact(f"{stream.name} ends early; delete {self.directory} and compute it again")
        return stored if self.key.dtype == "uint8" else stored.astype(np.float32)

    def _check_rows(self, wanted: npt.NDArray[np.int64]) -> None:
        outside = (wanted < 0) | (wanted >= len(self))
        if outside.any():
            raise InvalidValue(f"{self.directory}: no row {wanted[outside][0]}; it has rows 0 to {len(self) - 1}")
        absent = ~self.available[wanted]
        if absent.any():
            row = wanted[absent][0]
            raise InvalidValue(f"{self.directory}: row {row} has no features, see {QUARANTINE_FILE}; use `available`")


def _content_offset(stream: BinaryIO) -> int:
    """Where the numbers of a .npy file begin."""
    np.lib.format.read_magic(stream)
    np.lib.format.read_array_header_1_0(stream)
    return stream.tell()


def open_features(
    directory: str | Path, *, backbone_digest: str | None = None, crops_digest: str | None = None
) -> RegionFeatures:
    """Open a complete store, every file verified (all of MIMIC-CXR-JPG is 17 GB: up to half a minute).

    A process verifies a store once, and again where a file's size, inode or times say that it may have changed.
    Raises OtherBackbone where a digest is given and differs, NotAnArtifact where the store is incomplete,
    DamagedArtifact where a file differs from the manifest.
    """
    directory = Path(directory)
    features = RegionFeatures(directory, _verified_manifest(directory))
    for what, found, wanted in (
        ("backbone", features.backbone_digest, backbone_digest),
        ("crops", features.crops_digest, crops_digest),
    ):
        if wanted is not None and found != wanted:
            raise OtherBackbone(
                f"{directory} holds features of {what} {found[:12]} ({features.backbone}), needed are those of"
                f" {wanted[:12]}; compute them into another directory"
            )
    return features


_VERIFIED: dict[Path, tuple[object, ...]] = {}
"""Directory -> what its files were when this process last compared them with the manifest."""


def _verified_manifest(directory: Path) -> Manifest:
    manifest = read_manifest(directory, KIND)
    state = manifest.digest, *(_file_state(directory / name) for name in sorted(manifest.files))
    if _VERIFIED.get(directory.resolve()) != state:
        verify_files(directory, manifest)
        _VERIFIED[directory.resolve()] = state  # taken before: what changes meanwhile is seen the next time
    return manifest


def _file_state(path: Path) -> tuple[int, ...] | None:
    """Changes when the content may have; None where there is no file."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino, found.st_mode, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _check_fresh(directory: Path) -> None:
    """Refuse a directory with foreign content; scratch of a run that died before it wrote the key is ours."""
    if directory.is_dir() and len(scratch_files(directory, _OWN_FILES)) == len(list(directory.iterdir())):
        return
    check_output(directory, KIND)


def _shard_path(directory: Path, shard: int) -> Path:
    return directory / f"features-{shard:05d}.npy"


def _is_whole(path: Path, shape: tuple[int, ...], dtype: str) -> bool:
    try:
        shard = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return False
    return bool(shard.shape == shape and shard.dtype == dtype)


def _read_key(directory: Path, *, refused: type[OutputExists] | type[DamagedArtifact]) -> StoreKey:
    path = directory / STORE_FILE
    try:
        return StoreKey(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise refused(f"{path} is not the key of a feature store ({error}); choose another output") from None


def _read_quarantine(directory: Path) -> list[Refusal]:
    path = directory / QUARANTINE_FILE
    if not path.exists():
        return []
    try:
        with path.open(newline="") as stream:
            records = list(csv.DictReader(stream))
        return [Refusal(int(r["row"]), r["image_id"], r["reason"], r["detail"]) for r in records]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DamagedArtifact(f"{path} cannot be read ({error}); delete {directory} and compute it again") from None
