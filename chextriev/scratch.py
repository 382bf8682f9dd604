"""Files and directories that appear whole: scratch beside the target, locks that tell the living from the dead.

Scratch lies beside its target as `.name.tmp-TOKEN`, what is being replaced as `.name.old-TOKEN`. Who works on one
holds its lock (flock), which ends with the process: a leftover whose lock is free is dead. Process ids would not do, as
containers on one volume share them. A file system without such locks keeps its leftovers.
"""

import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

TOKEN = "[0-9a-f]{16}"
"""Pattern of the random part of a scratch name."""


def scratch_owner(name: str) -> str | None:
    """The file that scratch `folder/.NAME.tmp-TOKEN` is to become, as a relative name; None for any other name."""
    found = re.fullmatch(rf"((?:.*/)?)\.([^/]+)\.tmp-{TOKEN}", name, re.DOTALL)
    return found[1] + found[2] if found else None


@contextmanager
def scratch_beside(target: Path, make: Callable[[Path], None]) -> Iterator[Path]:
    """Make a file or directory that nobody else has, hold its lock, and remove what is left of it at the end."""
    while True:
        scratch = _hidden_name(target, "tmp")
        make(scratch)
        with locked(scratch, wait=True):
            if not scratch.exists():  # reaped between its making and its lock
                continue
            try:
                yield scratch
            finally:
                remove(scratch)
            return


def _hidden_name(target: Path, role: str) -> Path:
    return target.with_name(f".{target.name}.{role}-{secrets.token_hex(8)}")


def swap(scratch: Path, target: Path) -> None:
    """Rename scratch to target; the lock of the old one tells others that it is no leftover between the renames."""
    old = _hidden_name(target, "old")
    with locked(target):
        try:
            if target.exists():
                target.rename(old)
            scratch.rename(target)
        finally:
            _settle(old, target)


def _settle(old: Path, target: Path) -> None:
    """Remove what was replaced, or put it back where nothing took its place."""
    if target.exists():
        remove(old)
    elif old.exists():
        old.rename(target)


def reap(target: Path) -> None:
    """Remove what dead processes left beside `target`; one that died between the two renames is completed first."""
    if not target.parent.is_dir():
        return
    pattern = re.compile(rf"\.{re.escape(target.name)}\.(tmp|old)-{TOKEN}")
    for leftover in list(target.parent.iterdir()):
        named = pattern.fullmatch(leftover.name)
        if not named:
            continue
        with locked(leftover) as dead:
            if dead and named[1] == "old":
                _settle(leftover, target)
            elif dead:
                remove(leftover)


@contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[bool]:
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


def reserve(path: Path) -> None:
    """Have the disk keep room for all of a file: a full one is an OSError now, not a signal when a map is written."""
    with path.open("r+b") as stream:
        os.posix_fallocate(stream.fileno(), 0, os.fstat(stream.fileno()).st_size)


def sync_tree(directory: Path) -> None:
    """Have every file and folder in a directory, and their names, on disk."""
    for folder, _, files in os.walk(directory):
        for name in files:
            sync(Path(folder, name))
        sync(Path(folder))


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file, a link or a whole directory, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
