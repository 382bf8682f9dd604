"""Directories that one stage hands to the next: a manifest, digests, and a rename that makes them appear whole.

A directory is complete if, and only if, it holds `manifest.json`. The manifest names every file with size and sha256,
the recipe (settings and the digests of the parents) and the measured facts. Its digest covers the kind, the recipe and
the files, but no time, host or path, so that the same work has the same digest anywhere.

Scratch lies beside its target as `.name.tmp-TOKEN`, an artefact that is being replaced as `.name.old-TOKEN`. Who works
on one holds its lock (flock), which ends with the process: a leftover whose lock is free is dead. Process ids would not
do, as containers on one volume share them. A file system without such locks keeps its leftovers.
"""

import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from chextriev.errors import DamagedArtifact, NotAnArtifact, OutputExists

MANIFEST = "manifest.json"
SCHEMA = 1
_TOKEN = "[0-9a-f]{16}"


@dataclass(frozen=True)
class Recipe:
    """What an artefact is made of: checked settings, and the digests of its parents by role."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    parents: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """The content of `manifest.json`."""

    kind: str
    recipe: Recipe
    files: Mapping[str, Mapping[str, Any]]  # relative path -> {"size": bytes, "sha256": hex}
    facts: Mapping[str, Any] = field(default_factory=dict)  # measured or local; outside the digest

    @property
    def digest(self) -> str:
        """Identity of the artefact: kind, recipe and files."""
        return digest_of({"kind": self.kind, "recipe": asdict(self.recipe), "files": self.files})

    def to_json(self) -> str:
        """The text of `manifest.json`."""
        content = {"schema": SCHEMA, "digest": self.digest, **asdict(self)}
        return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def digest_of(value: object) -> str:
    """sha256 (hex) of a JSON-able value in canonical form: sorted keys, no spaces."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """sha256 (hex) of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_manifest(directory: Path, kind: str) -> Manifest:
    """The manifest of a complete directory of this kind, its own digest checked.

    Raises NotAnArtifact if there is none or it is of another kind, DamagedArtifact if it was altered.
    """
    path = Path(directory) / MANIFEST
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        if not Path(directory).exists():
            raise NotAnArtifact(f"there is no {directory}; the directory of {_one(kind)} is needed") from None
        raise NotAnArtifact(f"{directory} is not a complete {kind}: it has no {MANIFEST}; make it again") from None
    except (OSError, ValueError, RecursionError) as error:
        raise NotAnArtifact(f"{path} cannot be read as a manifest ({error}); {_one(kind)} is needed here") from error
    try:
        schema = content["schema"]
        if schema != SCHEMA:
            raise NotAnArtifact(
                f"{path} has manifest schema {schema!r}, this release of chextriev reads {SCHEMA}; use the release that"
                f" wrote it, or make the {kind} again with this one"
            )
        recipe = Recipe(**content["recipe"])
        manifest = Manifest(content["kind"], recipe, content["files"], content["facts"])
        stated, digest = content["digest"], manifest.digest
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise NotAnArtifact(
            f"{path} is not a manifest of this package ({error}); {_one(kind)} is needed here"
        ) from error
    if manifest.kind != kind:
        raise NotAnArtifact(f"{directory} holds {_one(manifest.kind)}; {_one(kind)} is needed here")
    if digest != stated:
        raise DamagedArtifact(f"{path} was altered: its digest is {digest[:12]}, it says {str(stated)[:12]}")
    return manifest


def verify_files(directory: Path, manifest: Manifest) -> None:
    """Compare every file with the manifest; DamagedArtifact names the first that differs."""
    for name, record in manifest.files.items():
        path = Path(directory) / name
        if not path.is_file() or path.is_symlink():
            raise DamagedArtifact(f"{path} is missing; make the {manifest.kind} again")
        if path.stat().st_size != record["size"]:
            raise DamagedArtifact(f"{path} has {path.stat().st_size} bytes, its manifest says {record['size']}")
        if file_digest(path) != record["sha256"]:
            raise DamagedArtifact(f"{path} differs from its manifest (sha256); make the {manifest.kind} again")


def open_artifact(directory: Path, kind: str) -> Manifest:
    """Read the manifest and verify every file: what a stage calls before it trusts its parent."""
    manifest = read_manifest(directory, kind)
    verify_files(directory, manifest)
    return manifest


def find_current(directory: Path, kind: str, recipe: Recipe) -> Manifest | None:
    """The manifest of `directory` if it is whole and was made by exactly this recipe, else None."""
    try:
        manifest = open_artifact(directory, kind)
    except (NotAnArtifact, DamagedArtifact):
        return None
    return manifest if asdict(manifest.recipe) == _plain(asdict(recipe)) else None


def seal(
    directory: Path,
    kind: str,
    recipe: Recipe,
    facts: Mapping[str, Any] | None = None,
    *,
    names: Sequence[str] | None = None,
) -> Manifest:
    """Declare a directory complete: record its files (or only those of `names`) and write the manifest last."""
    directory = Path(directory)
    paths = _files_of(directory) if names is None else [directory / name for name in names]
    files = {str(path.relative_to(directory)): _record(path) for path in paths}
    settings, parents = _plain(dict(recipe.settings)), _plain(dict(recipe.parents))
    manifest = Manifest(kind, Recipe(settings, parents), files, _plain(dict(facts or {})))
    write_text(directory / MANIFEST, manifest.to_json())
    return manifest


@contextmanager
def publishing(target: Path, kind: str) -> Iterator[Path]:
    """Yield a scratch directory beside `target`; when the body has sealed it, rename it to `target`.

    If the body fails or is interrupted, nothing appears. A previous artefact of the same kind is replaced;
    anything else at `target` is refused with OutputExists.
    """
    target = Path(target)
    _reap(target)
    check_output(target, kind)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _scratch_beside(target, Path.mkdir) as scratch:
        yield scratch
        read_manifest(scratch, kind)
        _swap(scratch, target)


def check_output(target: Path, kind: str) -> None:
    """Refuse an output path that holds anything but an artefact of this kind."""
    target = Path(target)
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    try:
        read_manifest(target, kind)
    except NotAnArtifact:
        raise OutputExists(f"{target} exists and is not {_one(kind)}; choose another output or move it away") from None
    except DamagedArtifact:
        return


def write_text(path: Path, text: str) -> None:
    """Write a small file so that readers see the old or the new one, never half of it."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes so that readers see the old or the new file, never half of it."""
    with _scratch_beside(path, Path.touch) as scratch:
        with scratch.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        scratch.replace(path)


def scratch_files(directory: Path, names: str) -> list[Path]:
    """Files that `write_bytes` has not finished; `names` is the pattern of the names they were to have."""
    pattern = re.compile(rf"\.(?:{names})\.tmp-{_TOKEN}")
    return [path for path in Path(directory).iterdir() if pattern.fullmatch(path.name) and path.is_file()]


def reap_scratch(directory: Path, names: str) -> None:
    """Remove the scratch files of dead processes."""
    for leftover in scratch_files(directory, names):
        with _locked(leftover) as dead:
            if dead:
                _remove(leftover)


def _files_of(directory: Path) -> list[Path]:
    found = (path for path in directory.rglob("*") if path.is_file() and path.name != MANIFEST)
    return sorted(path for path in found if not path.name.startswith("."))


def _record(path: Path) -> dict[str, Any]:
    return {"size": path.stat().st_size, "sha256": file_digest(path)}


def _plain(value: Any) -> Any:
    """The value as it reads back from JSON (tuples become lists), so that recipes compare equal."""
    return json.loads(json.dumps(value))


@contextmanager
def _scratch_beside(target: Path, make: Callable[[Path], None]) -> Iterator[Path]:
    """Make a file or directory that nobody else has, hold its lock, and remove what is left of it at the end."""
    while True:
        scratch = _hidden_name(target, "tmp")
        make(scratch)
        with _locked(scratch, wait=True):
            if not scratch.exists():  # reaped between its making and its lock
                continue
            try:
                yield scratch
            finally:
                _remove(scratch)
            return


def _hidden_name(target: Path, role: str) -> Path:
    return target.with_name(f".{target.name}.{role}-{secrets.token_hex(8)}")


def _swap(scratch: Path, target: Path) -> None:
    """Rename scratch to target; the lock of the old one tells others that it is no leftover between the renames."""
    old = _hidden_name(target, "old")
    with _locked(target):
        try:
            if target.exists():
                target.rename(old)
            scratch.rename(target)
        finally:
            _settle(old, target)


def _settle(old: Path, target: Path) -> None:
    """Remove what was replaced, or put it back where nothing took its place."""
    if target.exists():
        _remove(old)
    elif old.exists():
        old.rename(target)


def _reap(target: Path) -> None:
    """Remove what dead processes left beside `target`; one that died between the two renames is completed first."""
    if not target.parent.is_dir():
        return
    pattern = re.compile(rf"\.{re.escape(target.name)}\.(tmp|old)-{_TOKEN}")
    for leftover in list(target.parent.iterdir()):
        named = pattern.fullmatch(leftover.name)
        if not named:
            continue
        with _locked(leftover) as dead:
            if dead and named[1] == "old":
                _settle(leftover, target)
            elif dead:
                _remove(leftover)


@contextmanager
def _locked(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Hold the lock of a file or directory; False where it is gone, another holds it, or it cannot be locked."""
    descriptor = _open(path)
    if descriptor is None:
        yield False
        return
    try:
        yield _lock(descriptor, path, wait=wait)
    finally:
        with suppress(OSError):  # closing alone would leave the lock to processes forked meanwhile
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _open(path: Path) -> int | None:
    try:
        return os.open(path, os.O_RDONLY)
    except OSError:
        return None


def _lock(descriptor: int, path: Path, *, wait: bool) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _one(kind: str) -> str:
    """The kind with its article; kinds in the plural have none."""
    if kind.endswith("s"):
        return kind
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"
