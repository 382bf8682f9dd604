"""Directories that one stage hands to the next: a manifest, digests, and a rename that makes them appear whole.

A directory is complete if, and only if, it holds `manifest.json`. The manifest names every file with size and sha256,
the recipe (settings and the digests of the parents) and the measured facts. Its digest covers the kind, the recipe and
the files, but no time, host or path, so that the same work has the same digest anywhere.

A manifest and the files beside it are read as what they are, words of a stranger: see `artifact_files`.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from chextriev.artifact_files import MANIFEST as MANIFEST
from chextriev.artifact_files import RESERVED, SIGNATURE, check_name, check_record, names_inside, open_inside
from chextriev.errors import DamagedArtifact, NotAnArtifact, OutputExists
from chextriev.scratch import TOKEN, locked, reap, remove, scratch_beside, scratch_owner, swap

SCHEMA = 1
MANIFEST_LIMIT = 2**26
"""Bytes of a `manifest.json`: room for 400,000 files, far more than any stage makes."""

READ_LIMIT = 2**32
"""Bytes of a file that `read_verified` takes into memory unless told otherwise: 4 GiB."""


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


def file_digest(file: Path | BinaryIO) -> str:
    """sha256 (hex) of a file, or of the rest of an open one, without holding it in memory."""
    if isinstance(file, Path):
        with file.open("rb") as stream:
            return file_digest(stream)
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def read_manifest(directory: Path, kind: str) -> Manifest:
    """The manifest of a complete directory of this kind, its own digest and the form of its entries checked.

    Raises NotAnArtifact if there is none or it is of another kind, DamagedArtifact if it was altered or its entries
    are not names, sizes and digests that `seal` writes.
    """
    return parse_manifest(manifest_bytes(directory, kind), directory, kind)


def manifest_bytes(directory: Path, kind: str = "artefact") -> bytes:
    """`manifest.json` as it is, nothing checked; NotAnArtifact where it is missing, a link, or larger than the limit.

    kind: what the messages call the directory.
    """
    directory = Path(directory)
    path = directory / MANIFEST
    try:
        with open_inside(directory, MANIFEST) as stream:
            content = stream.read(MANIFEST_LIMIT + 1)
    except FileNotFoundError:
        if not directory.exists():
            raise NotAnArtifact(f"there is no {directory}; the directory of {_one(kind)} is needed") from None
        raise NotAnArtifact(f"{directory} is not a complete {kind}: it has no {MANIFEST}; make it again") from None
    except (OSError, ValueError, DamagedArtifact) as error:
        raise NotAnArtifact(f"{path} cannot be read as a manifest ({error}); {_one(kind)} is needed here") from error
    if len(content) > MANIFEST_LIMIT:
        raise NotAnArtifact(f"{path} has over {MANIFEST_LIMIT:,} bytes, too many for a manifest; make the {kind} again")
    return content


def parse_manifest(content: bytes, directory: Path, kind: str) -> Manifest:
    """What `read_manifest` says of these bytes of the directory's `manifest.json`."""
    path = Path(directory) / MANIFEST
    try:
        manifest, stated = _decode(content, path, kind)
        digest = manifest.digest
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise NotAnArtifact(
            f"{path} is not a manifest of this package ({error!s:.200}); {_one(kind)} is needed here"
        ) from error
    if manifest.kind != kind:
        raise NotAnArtifact(f"{directory} holds {_one(manifest.kind)}; {_one(kind)} is needed here")
    if digest != stated:
        raise DamagedArtifact(f"{path} was altered: its digest is {digest[:12]}, it says {stated[:12]}")
    for name, record in manifest.files.items():
        check_record(name, record, path)
    return manifest


def _decode(content: bytes, path: Path, kind: str) -> tuple[Manifest, str]:
    """The manifest and the digest that it states; what it lacks or has of another type is a KeyError or TypeError."""
    fields = json.loads(content.decode())
    if fields["schema"] != SCHEMA:
        raise NotAnArtifact(
            f"{path} has manifest schema {fields['schema']!r:.40}, this release of chextriev reads {SCHEMA}; use the"
            f" release that wrote it, or make the {kind} again with this one"
        )
    recipe = Recipe(**fields["recipe"])
    manifest = Manifest(fields["kind"], recipe, fields["files"], fields["facts"])
    for part in (recipe.settings, recipe.parents, manifest.files, manifest.facts):
        if not isinstance(part, dict):
            raise TypeError(f"{part!r:.40} stands where names and values are needed")
    for text in (manifest.kind, fields["digest"]):
        if not isinstance(text, str) or not text:
            raise TypeError(f"{text!r:.40} stands where a word is needed")
    return manifest, fields["digest"]


def verify_files(directory: Path, manifest: Manifest, names: Iterable[str] | None = None) -> None:
    """Compare every file, or only those of `names`, with the manifest; DamagedArtifact names the first that differs."""
    for name in manifest.files if names is None else names:
        with _open_named(directory, manifest, name) as stream:
            digest = file_digest(stream)
        _check_digest(digest, directory, manifest, name)


def open_verified(directory: Path, manifest: Manifest, name: str) -> BinaryIO:
    """A file that the manifest names, opened at its start after its digest was taken of the same open file.

    For files too large for `read_verified`. DamagedArtifact as there.
    """
    stream = _open_named(directory, manifest, name)
    try:
        _check_digest(file_digest(stream), directory, manifest, name)
    except DamagedArtifact:
        stream.close()
        raise
    stream.seek(0)
    return stream


def read_verified(directory: Path, manifest: Manifest, name: str, *, limit: int = READ_LIMIT) -> bytes:
    """A file that the manifest names, read once: the digest was taken of the very bytes that are returned.

    Give these bytes, not the path, to a parser that must not see anything else. limit: in bytes.
    DamagedArtifact if the manifest does not name the file, or it is missing, a link, too large, or differs.
    """
    with _open_named(directory, manifest, name) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > limit:
            raise DamagedArtifact(
                f"{Path(directory) / name} has {size:,} bytes; at most {limit:,} are read into memory"
            )
        content = stream.read(size)
    _check_digest(hashlib.sha256(content).hexdigest(), directory, manifest, name)
    return content


def check_contents(directory: Path, manifest: Manifest) -> None:
    """DamagedArtifact if the directory holds a file that its manifest does not name, or a symbolic link.

    Allowed are the manifest, its signature, and scratch of `write_bytes` for any of these. For artefacts that are
    sealed whole; others, such as training runs, keep files beside those that their manifest names.
    """
    expected = {*manifest.files, *RESERVED}
    for name in names_inside(Path(directory)):
        if name not in expected and scratch_owner(name) not in expected:
            raise DamagedArtifact(
                f"{directory} holds {name!r}, which its {MANIFEST} does not name; remove it, or make the"
                f" {manifest.kind} again"
            )


def _open_named(directory: Path, manifest: Manifest, name: str) -> BinaryIO:
    """Open a file that the manifest names, its size compared."""
    directory = Path(directory)
    if name not in manifest.files:
        raise DamagedArtifact(f"{directory / MANIFEST} names no file {name!r:.80}; make the {manifest.kind} again")
    stated, _ = check_record(name, manifest.files[name], directory / MANIFEST)
    try:
        stream = open_inside(directory, name)
    except FileNotFoundError:
        raise DamagedArtifact(f"{directory / name} is missing; make the {manifest.kind} again") from None
    size = os.fstat(stream.fileno()).st_size
    if size != stated:
        stream.close()
        raise DamagedArtifact(f"{directory / name} has {size} bytes, its manifest says {stated}")
    return stream


def _check_digest(digest: str, directory: Path, manifest: Manifest, name: str) -> None:
    if digest != manifest.files[name]["sha256"]:
        path = Path(directory) / name
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
    """Declare a directory complete: record its files (or only those of `names`) and write the manifest last.

    Hidden files are left out. A signature of what the directory was before is removed. DamagedArtifact for symbolic
    links and for names that a manifest cannot hold.
    """
    directory = Path(directory)
    files = {name: _record(directory, name) for name in (_visible(directory) if names is None else names)}
    settings, parents = _plain(dict(recipe.settings)), _plain(dict(recipe.parents))
    manifest = Manifest(kind, Recipe(settings, parents), files, _plain(dict(facts or {})))
    (directory / SIGNATURE).unlink(missing_ok=True)
    write_text(directory / MANIFEST, manifest.to_json())
    return manifest


@contextmanager
def publishing(target: Path, kind: str) -> Iterator[Path]:
    """Yield a scratch directory beside `target`; when the body has sealed it, rename it to `target`.

    If the body fails or is interrupted, nothing appears. A previous artefact of the same kind is replaced;
    anything else at `target` is refused with OutputExists.
    """
    target = Path(target)
    reap(target)
    check_output(target, kind)
    target.parent.mkdir(parents=True, exist_ok=True)
    with scratch_beside(target, Path.mkdir) as scratch:
        yield scratch
        read_manifest(scratch, kind)
        swap(scratch, target)


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
    with scratch_beside(path, Path.touch) as scratch:
        with scratch.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        scratch.replace(path)


def scratch_files(directory: Path, names: str) -> list[Path]:
    """Files that `write_bytes` has not finished; `names` is the pattern of the names they were to have."""
    pattern = re.compile(rf"\.(?:{names})\.tmp-{TOKEN}")
    return [path for path in Path(directory).iterdir() if pattern.fullmatch(path.name) and path.is_file()]


def reap_scratch(directory: Path, names: str) -> None:
    """Remove the scratch files of dead processes."""
    for leftover in scratch_files(directory, names):
        with locked(leftover) as dead:
            if dead:
                remove(leftover)


def _visible(directory: Path) -> list[str]:
    names = (name for name in names_inside(directory) if name not in RESERVED)
    return [name for name in names if not any(part.startswith(".") for part in name.split("/"))]


def _record(directory: Path, name: str) -> dict[str, Any]:
    with open_inside(directory, check_name(name, directory)) as stream:
        return {"size": os.fstat(stream.fileno()).st_size, "sha256": file_digest(stream)}


def _plain(value: Any) -> Any:
    """The value as it reads back from JSON (tuples become lists), so that recipes compare equal."""
    return json.loads(json.dumps(value))


def _one(kind: str) -> str:
    """The kind with its article; kinds in the plural have none."""
    if kind.endswith("s"):
        return kind
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"
