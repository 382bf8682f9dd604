"""Opens an index again and again, each time with something in its directory changed; run as a program.

Arguments: the folder of prepared indexes, "damaged" or "sealed", a seed, how many changes. The last line that it
prints is JSON: refused, accepted, and by how many bytes its memory grew. Any exception that is not of this package, a
crash or a hang ends it with another status than 0; the line before names the change.
"""

import json
import os
import shutil
import signal
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from chextriev.artifacts import MANIFEST, Recipe, read_manifest, seal
from chextriev.errors import ArtifactError, InputError
from chextriev.index.generation import KIND, manifest_digits
from chextriev.index.growth import add, remove
from chextriev.index.info import copy_index
from chextriev.index.search import open_index
from chextriev.index.store import CURRENT, IndexStore
from chextriev.machine import peak_memory_bytes
from tests.index.growing import COUNT, SPECS, built, encoded, queries, universe

KINDS = ("flat", "lists", "code lists", "graph")
HANG_S = 60
_SMALL = (0, 1, 2, COUNT, COUNT + 1, 2**31 - 1, 2**31, 2**32 - 1)
_LARGE = (0, 1, COUNT + 1, 2**32, 2**40, 2**63 - 1, 2**63, 2**64 - 1)
_WORDS = (None, True, -1, 0, 1, 7, 1.5, 10**6, 10**30, "", "x", "Flat", "hamming", [], {}, [1], "../x", "1e400")


def prepare(folder):
    """An index of each kind in a folder of its name, with added and removed rows; "flat" has regions too."""
    for kind in KINDS:
        radiographs = universe(regions=kind == "flat")
        out = built(radiographs.of(range(60)), folder / "growing" / kind, SPECS[kind])
        add(out, radiographs.of(range(60, 80)))
        remove(out, radiographs.ids([0, 7, 61]))
        copy_index(out, folder / kind)


@dataclass(frozen=True)
class Link:
    target: str


FOLDER, PIPE = "a folder", "a pipe"


class Scene:
    """The files of an index, which are as they were again after every change."""

    def __init__(self, folder, kind):
        self.kind, self.directory = kind, folder / kind
        self.generation = IndexStore(self.directory).current.relative_to(self.directory)
        self.files = {
            str(path.relative_to(self.directory)): path.read_bytes()
            for path in self.directory.rglob("*")
            if path.is_file()
        }
        for name, content in self.files.items():  # none is shared with another index
            self.put(name, content)

    def put(self, name, value):
        path = self.directory / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        if isinstance(value, bytes):
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(value)
        elif isinstance(value, Link):
            path.symlink_to(value.target)
        elif value == FOLDER:
            path.mkdir()
        elif value == PIPE:
            os.mkfifo(path)

    def change(self, changed):
        for name, value in changed.items():
            self.put(name, value)

    def restore(self, changed):
        for name in changed:
            self.put(name, self.files.get(name))


def bits(content, rng):
    content = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
    return bytes(content)


def damaged(scene, others, rng):
    """Names and what is to stand there (None for nothing): a directory that no writer leaves."""
    files, inside = scene.files, [name for name in scene.files if name != CURRENT]
    how, name = int(rng.integers(14)), str(rng.choice(list(files)))
    content, other = files[name], str(rng.choice(inside))
    new = f"{scene.generation}/{rng.choice(['notes.txt', '.hidden', 'x.npy', '.ids.parquet.tmp-1', 'a/b'])}"
    if how <= 3:
        return {name: bits(content, rng)}
    if how == 4:
        return {name: content[: rng.integers(len(content))]}
    if how == 5:
        return {name: content + rng.bytes(int(rng.integers(1, 100)))}
    if how == 6:
        return {name: files[other], other: content}
    if how == 7:
        return {name: None}
    if how == 8:
        return {other: None, new: files[other]}
    if how == 9:
        return {new: rng.bytes(int(rng.integers(0, 50)))}
    if how == 10:
        return {name: Link(f"/proc/self/cwd/{name}"), new: content}
    if how == 11:
        return {name: [FOLDER, PIPE, Link("/dev/zero"), Link(MANIFEST)][rng.integers(4)]}
    if how == 12:
        manifest = json.loads(files[f"{scene.generation}/{MANIFEST}"])
        edit(manifest, rng)
        return {f"{scene.generation}/{MANIFEST}": json.dumps(manifest, indent=2, sort_keys=True).encode()}
    theirs = others[rng.integers(len(others))]
    here, there = Path(name).name, {Path(path).name: path for path in theirs.files}
    return {name: theirs.files[there[here]]} if here in there else {name: b""}


def edit(value, rng):
    """Put something else in one place of a JSON value."""
    places = list(places_in(value))
    holder, key = places[rng.integers(len(places))]
    if rng.integers(5) == 0 and isinstance(holder, dict):
        del holder[key]
    else:
        holder[key] = _WORDS[rng.integers(len(_WORDS))]


def places_in(value):
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield value, key
        if isinstance(inner, dict | list):
            yield from places_in(inner)


def forged(content, rng):
    """Bytes that a parser reads as other numbers: most often near the ends, where headers and trailers stand."""
    content = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        near = min(len(content), 400)
        at = int(
            [rng.integers(near), len(content) - 1 - rng.integers(near), rng.integers(len(content))][rng.integers(3)]
        )
        how = int(rng.integers(6))
        if how == 0:
            content[at] ^= 1 << int(rng.integers(8))
        elif how == 1:
            content[at] = int(rng.integers(256))
        elif how == 2:
            content[at : at + 4] = _SMALL[rng.integers(len(_SMALL))].to_bytes(4, "little")
        elif how == 3:
            content[at : at + 8] = _LARGE[rng.integers(len(_LARGE))].to_bytes(8, "little")
        elif how == 4:
            content[at : at + 8] = int(rng.integers(1 << 16)).to_bytes(8, "little")
        elif rng.integers(8) == 0:
            del content[at : at + int(rng.integers(1, 64))]
    return bytes(content)


def sealed(scene, rng):
    """Change a file, or what the manifest says of the index, and have the manifest, its name and CURRENT agree."""
    generation = scene.directory / scene.generation
    recipe, names = read_manifest(generation, KIND).recipe, [Path(name).name for name in scene.files if "/" in name]
    names.remove(MANIFEST)
    if rng.integers(6) == 0:
        settings, parents = json.loads(json.dumps([recipe.settings, recipe.parents]))
        edit(settings if rng.integers(8) else parents, rng)
        recipe = Recipe(settings, parents)
    else:
        for name in rng.choice(names, min(len(names), int(rng.integers(1, 3))), replace=False):
            scene.put(f"{scene.generation}/{name}", forged(scene.files[f"{scene.generation}/{name}"], rng))
    seal(generation, KIND, recipe)
    name = f"000001-{manifest_digits(generation)}"
    generation.rename(generation.with_name(name))
    (scene.directory / CURRENT).write_text(f"{name}\n")
    return generation.with_name(name)


def search(directory, asked):
    """Open and ask everything that a reader may ask."""
    index = open_index(directory)
    index.search(queries(), 5)
    index.search(queries(), COUNT, exact=True)
    index.search(asked, 5, where=["age > 20", "view = PA"])
    index.search(asked, 3, where="hospital = north")
    if asked.region_vectors.size:
        index.search(asked, 5, regions={"left lung": 1.0, "trachea": 2.0})
        index.search(asked, 5, regions={"left lung": 1.0}, candidates=10)


def say(line):
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def tried(call):
    """Whether it was done, or refused by an error of this package that says what to mend."""
    signal.alarm(HANG_S)
    try:
        call()
    except (ArtifactError, InputError):
        return "refused"
    finally:
        signal.alarm(0)
    return "accepted"


def damage(scenes, rng, number):
    """None where the change leaves the directory as it was."""
    scene = scenes[number % len(scenes)]
    changed = damaged(scene, [each for each in scenes if each is not scene], rng)
    if all(scene.files.get(name) == value for name, value in changed.items()):
        return None
    scene.change(changed)
    found = tried(lambda: open_index(scene.directory))
    if found == "accepted":
        say(f"accepted: {scene.kind}: {sorted(changed)}")
    scene.restore(changed)
    return found


def forge(scenes, rng, number, asked):
    scene = scenes[number % len(scenes)]
    generation = sealed(scene, rng)
    found = tried(lambda: search(scene.directory, asked[scene.kind]))
    generation.rename(scene.directory / scene.generation)
    for name, content in scene.files.items():
        if (scene.directory / name).read_bytes() != content:
            scene.put(name, content)
    return found


def main():
    import faiss

    faiss.omp_set_num_threads(1)
    folder, family, seed, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    np.seterr(all="ignore")
    asked = {kind: encoded(universe(regions=kind == "flat").of([3, 70])) for kind in KINDS}
    scenes = [Scene(folder, kind) for kind in KINDS]
    for _ in range(5):
        for scene in scenes:
            search(scene.directory, asked[scene.kind])
    before, counted, number = peak_memory_bytes(), Counter(), 0
    while sum(counted.values()) < count:
        rng, number = np.random.default_rng([seed, number]), number + 1
        say(f"change {number - 1} of seed {seed}")
        found = damage(scenes, rng, number) if family == "damaged" else forge(scenes, rng, number, asked)
        if found is not None:
            counted[found] += 1
    say(json.dumps({**counted, "grown": peak_memory_bytes() - before}))


if __name__ == "__main__":
    main()
