"""Generations of an index in one directory: publishing is a flip of `CURRENT`, and so is going back.

    INDEX/CURRENT                 the generation that readers open, and below it those that they opened before
    INDEX/generations/000002-…/   a generation, immutable: its number and the first digits of its manifest's sha256

A generation is whole and on disk before it gets its name, which ends in digits of its digest. Readers hold what they
opened until they open it anew. One writer at a time holds the lock of the directory, which ends with its process.
"""

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from chextriev.artifact_files import open_inside
from chextriev.artifacts import MANIFEST, Manifest, open_artifact, read_manifest, reap_scratch, write_text
from chextriev.errors import BusyIndex, DamagedArtifact, InvalidSetting, NotAnArtifact, OutputExists
from chextriev.index.generation import KIND, NAME, check_name, manifest_digits
from chextriev.scratch import locked, reap, remove, scratch_beside, scratch_owner, sync, sync_tree

CURRENT = "CURRENT"
GENERATIONS = "generations"
REMEMBERED = 1_000
"""Published generations that `CURRENT` names, latest first."""
_CURRENT_BYTES = 1 << 16


@dataclass(frozen=True)
class Published:
    """A generation of a store. number: rises with each. current: whether readers open it."""

    number: int
    directory: Path
    current: bool


class IndexStore:
    """A directory of generations; it need not exist yet."""

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)

    @property
    def exists(self) -> bool:
        """Whether a generation was ever published here."""
        return (self.directory / CURRENT).is_file()

    @property
    def current(self) -> Path:
        """The directory of the generation that readers open; NotAnArtifact where none was published."""
        return self._folder / self.history()[0]

    @property
    def _folder(self) -> Path:
        return self.directory / GENERATIONS

    def history(self) -> list[str]:
        """Names of the generations published, the current one first, each standing where it was published last."""
        path = self.directory / CURRENT
        try:
            with open_inside(self.directory, CURRENT) as stream:
                names = stream.read(_CURRENT_BYTES).decode("ascii").split("\n")
        except FileNotFoundError:
            if not self.directory.exists():
                raise NotAnArtifact(f"there is no {self.directory}; the directory of an index is needed") from None
            raise NotAnArtifact(
                f"{self.directory} is no index: it has no {CURRENT}; make one with `chextriev index build`"
            ) from None
        except (OSError, ValueError) as error:
            raise DamagedArtifact(f"{path} cannot be read as names of generations ({error})") from error
        if names[-1] or not names[:-1] or not all(NAME.fullmatch(name) for name in names[:-1]):
            raise DamagedArtifact(
                f"{path} does not name generations, one on each line; write the name of a folder in"
                f" {self._folder} into it"
            )
        return names[:-1]

    def generations(self) -> list[Published]:
        """Every whole generation, oldest first."""
        names = sorted((name for name in self._names() if (self._folder / name / MANIFEST).is_file()), key=_number)
        current = self.history()[0] if self.exists else ""
        return [self._published(name, current) for name in names]

    def _published(self, name: str, current: str) -> Published:
        return Published(_number(name), self._folder / name, name == current)

    def _names(self) -> list[str]:
        if not self._folder.is_dir():
            return []
        return [path.name for path in self._folder.iterdir() if NAME.fullmatch(path.name)]

    @contextmanager
    def writing(self, *, new: bool = False) -> Iterator[None]:
        """Hold the lock of the only writer; BusyIndex if another has it. What dead writers left is removed.

        new: there need be no index yet; NotAnArtifact otherwise.
        """
        if not new:
            self.history()
        made = self._make()
        with locked(self.directory) as alone:
            if not alone:
                raise BusyIndex(
                    f"another process writes to {self.directory}, and one does at a time; run this again when it has"
                    " finished"
                )
            try:
                self._reap()
                yield
            finally:
                if not self.exists:
                    self._unmake(made)  # under the lock: the folders of another writer stay

    def _make(self) -> list[Path]:
        """Make the folders that there are not, and name them. OutputExists for a directory of something else."""
        if self.exists or self._folder.is_dir():
            self._folder.mkdir(exist_ok=True)
            return [self._folder]
        if self.directory.exists() and (not self.directory.is_dir() or any(self.directory.iterdir())):
            raise OutputExists(f"{self.directory} exists and is not an index; choose another output or move it away")
        made = [folder for folder in (self._folder, *self._folder.parents) if not folder.exists()]
        self._folder.mkdir(parents=True, exist_ok=True)
        return made

    @staticmethod
    def _unmake(made: list[Path]) -> None:
        """Remove the folders of an index that never came to be, unless somebody has put something in."""
        for folder in made:
            with suppress(OSError):
                folder.rmdir()

    def _reap(self) -> None:
        reap_scratch(self.directory, CURRENT)
        for name in {scratch_owner(path.name) for path in self._folder.iterdir()} - {None}:
            reap(self._folder / str(name))

    def add(self, write: Callable[[Path], Manifest], *, publish: bool = True) -> Published:
        """Have `write` make and seal a generation in an empty directory, and publish it. For who is `writing`."""
        taken = [_number(name) for name in self._names() + (self.history() if self.exists else [])]
        number = f"{max(taken, default=0) + 1:06d}"
        with scratch_beside(self._folder / number, Path.mkdir) as scratch:
            write(scratch)
            read_manifest(scratch, KIND)
            name = f"{number}-{manifest_digits(scratch)}"
            sync_tree(scratch)
            scratch.rename(self._folder / name)
            sync(self._folder)
        if publish:
            self._flip(name)
        return self._published(name, name if publish else "")

    def publish(self, number: int) -> Published:
        """Make a generation the current one, its files verified. For who is `writing`."""
        found = next((each for each in self.generations() if each.number == number), None)
        if found is None:
            raise InvalidSetting(f"{self.directory} has no generation {number}; it has {self._numbers()}")
        check_name(found.directory)
        open_artifact(found.directory, KIND)
        self._flip(found.directory.name)
        return replace(found, current=True)

    def rollback(self) -> Published:
        """Make the generation current that was before this one. For who is `writing`."""
        current, *before = self.history()
        kept = [name for name in before if (self._folder / name / MANIFEST).is_file()]
        if not kept:
            raise InvalidSetting(
                f"{self.directory} has no generation that was published before {_number(current)}; it has"
                f" {self._numbers()}"
            )
        read_manifest(self._folder / kept[0], KIND)
        self._write(kept)
        return self._published(kept[0], kept[0])

    def collect(self, keep: int) -> list[Published]:
        """Remove all generations but the current one and the `keep` published before it. For who is `writing`."""
        if keep < 0:
            raise InvalidSetting(f"keep = {keep}; give 0 or more")
        kept = set([name for name in self.history() if (self._folder / name).is_dir()][: keep + 1])
        dead = [each for each in self.generations() if each.directory.name not in kept]
        for each in dead:
            hidden = self._folder / f".{each.number:06d}.tmp-{secrets.token_hex(8)}"
            each.directory.rename(hidden)  # whole or gone, for who opens it now
            remove(hidden)
        return dead

    def _numbers(self) -> str:
        return ", ".join(str(each.number) for each in self.generations()) or "none"

    def _flip(self, name: str) -> None:
        before = self.history() if self.exists else []
        self._write([name, *(each for each in before if each != name)])

    def _write(self, names: list[str]) -> None:
        write_text(self.directory / CURRENT, "".join(f"{name}\n" for name in names[:REMEMBERED]))
        sync(self.directory)


def _number(name: str) -> int:
    return int(name.split("-")[0])


def link_or_copy(source: Path, target: Path) -> None:
    """A second name for a file that nobody changes, or a copy where the file system has no such names."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
