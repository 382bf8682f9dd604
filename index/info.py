"""What an index holds, whether it is whole, and a copy of it in another place."""

from pathlib import Path
from typing import Any

from chextriev.artifacts import Manifest, read_manifest, seal
from chextriev.errors import DamagedArtifact, OtherEncoder
from chextriev.index.generation import KIND, open_generation
from chextriev.index.search import find_generation
from chextriev.index.store import IndexStore, Published, link_or_copy


def describe_index(directory: str | Path) -> dict[str, Any]:
    """What an index, or one generation, says of itself; every value is JSON-able. Files are not compared."""
    store = IndexStore(directory)
    manifest = read_manifest(find_generation(directory), KIND)
    said = manifest.recipe.settings
    return {
        "index": str(directory),
        "digest": manifest.digest,
        "encoder": manifest.recipe.parents.get("encoder", ""),
        "holds": _holds(manifest),
        **{name: said[name] for name in ("n", "added", "removed", "width")},
        "metric": said["spec"]["metric"],
        "factory": said["spec"]["factory"],
        **{name: value for name, value in manifest.facts.items() if name not in ("n", "width")},
        "region_vectors": any(name.startswith("region_") for name in manifest.files),
        "generations": [_line(each) for each in store.generations()] if store.exists else [],
    }


def verify_index(directory: str | Path) -> list[dict[str, Any]]:
    """Open every generation of an index, each file compared with its manifest; what was opened.

    Raises DamagedArtifact that names the first file that differs.
    """
    store = IndexStore(directory)
    if not store.exists:
        open_generation(directory)
        return []
    store.history()
    for each in store.generations():
        open_generation(each.directory)
    return [_line(each) for each in store.generations()]


def copy_index(source: str | Path, directory: str | Path) -> Published:
    """Publish what another index holds now in this one, which may be new, and may be of the same encoder only.

    Where both are on one file system the files get a second name instead of a copy.
    """
    found = find_generation(source)
    manifest = open_generation(found).manifest
    store = IndexStore(directory)
    with store.writing(new=True):
        if store.exists:
            held = read_manifest(store.current, KIND).recipe.parents.get("encoder", "")
            new = manifest.recipe.parents.get("encoder", "")
            if held != new:
                raise OtherEncoder(
                    f"{directory} holds vectors of encoder {held[:12] or '(nobody said)'}, {source} of encoder"
                    f" {new[:12] or '(nobody said)'}; publish it in a directory of its own"
                )
        return store.add(lambda scratch: _copy(found, manifest, scratch))


def _copy(source: Path, manifest: Manifest, scratch: Path) -> Manifest:
    for name in manifest.files:
        link_or_copy(source / name, scratch / name)
    sealed = seal(scratch, KIND, manifest.recipe, manifest.facts)
    if sealed.digest != manifest.digest:
        raise DamagedArtifact(f"{source} changed while it was copied; verify it, and publish it again")
    return sealed


def _holds(manifest: Manifest) -> int:
    said = manifest.recipe.settings
    return int(said["n"] + said["added"] - said["removed"])


def _line(published: Published) -> dict[str, Any]:
    manifest = read_manifest(published.directory, KIND)
    return {
        "number": published.number,
        "directory": published.directory.name,
        "current": published.current,
        "digest": manifest.digest,
        "holds": _holds(manifest),
        "megabytes": sum(record["size"] for record in manifest.files.values()) / 1e6,
    }
