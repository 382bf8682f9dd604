"""The files inside an artefact: which names a manifest may give them, and how they are opened.

A manifest may come from anybody, so it must not lead out of its directory. Names are plain relative paths, and below
the artefact no symbolic link is followed: each folder is opened inside the one before it, so that nothing can be
exchanged between a check and its use. The directory of the artefact may itself be reached by a link.
"""

import errno
import os
import re
import stat
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import BinaryIO

from chextriev.errors import DamagedArtifact

MANIFEST = "manifest.json"
SIGNATURE = "manifest.json.sig"
RESERVED = (MANIFEST, SIGNATURE)
"""The two files of an artefact that its manifest cannot name."""

_NO_LINK = "a symbolic link; an artefact holds regular files and folders only: copy what it points to"


def check_name(name: object, where: Path) -> str:
    """The name, if it is a plain relative path; DamagedArtifact if it is not."""
    if not isinstance(name, str) or not _is_plain(name):
        raise DamagedArtifact(
            f"{where} names the file {name!r:.80}; a name is a relative path with / between its parts, none of them"
            f" empty or hidden, of printable characters without a backslash, and not {' or '.join(RESERVED)}; make the"
            " artefact again"
        )
    return name


def _is_plain(name: str) -> bool:
    """An absolute path, `//` and a last / have an empty part; `.` and `..` begin as hidden files do."""
    parts = all(part and not part.startswith(".") for part in name.split("/"))
    return parts and name.isprintable() and "\\" not in name and name not in RESERVED


def check_record(name: object, record: object, where: Path) -> tuple[int, str]:
    """Size and sha256 of a manifest's entry; DamagedArtifact if the name or the record is not as `seal` writes it."""
    check_name(name, where)
    if not isinstance(record, Mapping) or set(record) != {"size", "sha256"}:
        raise DamagedArtifact(f"{where} must give size and sha256 of {name}, and nothing else; make the artefact again")
    size, digest = record["size"], record["sha256"]
    if type(size) is not int or size < 0:
        raise DamagedArtifact(f"{where} gives {name} the size {size!r:.40}; a number of bytes is needed")
    if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest):
        raise DamagedArtifact(f"{where} gives {name} the sha256 {digest!r:.80}; 64 digits of 0-9a-f are needed")
    return size, digest


def open_inside(directory: Path, name: str) -> BinaryIO:
    """Open a regular file of an artefact to read; the stream's `name` is the one given, relative to the artefact.

    Raises FileNotFoundError where there is none, DamagedArtifact for a symbolic link on the way, a folder, a pipe or
    device, and a file that cannot be read.
    """
    path = directory / name
    try:
        stream = _open_stepwise(directory, name)
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR) and directory.is_dir():
            raise DamagedArtifact(f"{path} is, or lies behind, {_NO_LINK}") from error
        raise DamagedArtifact(f"{path} cannot be read as a file ({error.strerror})") from error
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise DamagedArtifact(f"{path} is a pipe or a device; an artefact holds regular files")
    return stream


def _open_stepwise(directory: Path, name: str) -> BinaryIO:
    *folders, last = name.split("/")
    with ExitStack() as opened:
        inside = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        opened.callback(os.close, inside)
        for folder in folders:
            inside = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=inside)
            opened.callback(os.close, inside)
        return open(name, "rb", opener=partial(_open_last, last, inside))


def _open_last(last: str, inside: int, _name: str, flags: int) -> int:
    return os.open(last, flags | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=inside)  # a pipe would wait for its writer


def names_inside(directory: Path) -> list[str]:
    """Relative names of all that is in an artefact and is no folder, sorted; DamagedArtifact for a symbolic link."""
    names, folders = list[str](), [""]
    while folders:
        folder = folders.pop()
        for entry in _entries(directory / folder):
            name = f"{folder}{entry.name}"
            if entry.is_symlink():
                raise DamagedArtifact(f"{str(directory / name)!r} is {_NO_LINK}")
            if entry.is_dir(follow_symlinks=False):
                folders.append(f"{name}/")
            else:
                names.append(name)
    return sorted(names)


def _entries(folder: Path) -> list["os.DirEntry[str]"]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise DamagedArtifact(f"{folder} cannot be listed ({error.strerror})") from error
