"""Shared memory of this host: regions that both ends map, and a bounded pool of them."""

import fcntl
import mmap
import os
import re
import secrets
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from chextriev.errors import DeadlineExpired, InvalidSetting

FOLDER = Path("/dev/shm")
_NAME = re.compile(r"chextriev-client-[0-9a-f]{32}")
_SMALLEST = 2**20


class Region:
    """Memory that the server maps too. Its file has a random name, is its owner's alone, and is gone once both ends
    have it: a process that is killed leaves none behind.

    register: tells the server its name and size in bytes; called while the file is there.
    """

    def __init__(self, size: int, register: Callable[[str, int], None]) -> None:
        self.name, self.size = f"chextriev-client-{secrets.token_hex(16)}", size
        path = FOLDER / self.name
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # until the file is gone: by it `reap` knows that we live
            os.posix_fallocate(descriptor, 0, size)  # else a full /dev/shm would kill the process at its first write
            self.memory = mmap.mmap(descriptor, size)
            register(self.name, size)
        except OSError as error:
            raise InvalidSetting(
                f"shared memory of {size:,} bytes: {error.strerror}; make /dev/shm larger, send less at once, or use"
                " grpc:// in place of shm://"
            ) from None
        finally:
            path.unlink(missing_ok=True)
            os.close(descriptor)

    def close(self) -> None:
        """Unmap it here; a view that is still held keeps it."""
        with suppress(BufferError):
            self.memory.close()


def reap() -> None:
    """Remove files of clients that were killed between making one and handing it over."""
    for path in FOLDER.glob("chextriev-client-*"):
        if not _NAME.fullmatch(path.name):
            continue
        with suppress(OSError):  # another user's, or gone meanwhile
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                # One without bytes may be of a client that is about to lock it.
                if os.fstat(descriptor).st_size:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()
            finally:
                os.close(descriptor)


class RegionPool:
    """At most `count` regions at once, each used by one request at a time and then by another.

    make: a region of so many bytes. drop: called with one that is too small to be used again.
    """

    def __init__(self, count: int, make: Callable[[int], Region], drop: Callable[[Region], None]) -> None:
        self._free = threading.BoundedSemaphore(count)
        self._lock = threading.Lock()
        self._idle: list[Region] = []
        self._make, self._drop = make, drop

    def take(self, size: int, timeout_s: float) -> Region:
        """A region of at least `size` bytes; DeadlineExpired where none became free in time."""
        if not self._free.acquire(timeout=timeout_s):
            raise DeadlineExpired(f"no shared memory became free within {timeout_s:.3g} s; send fewer at once")
        try:
            with self._lock:
                idle = self._idle.pop() if self._idle else None
            if idle is not None and idle.size >= size:
                return idle
            if idle is not None:
                self._drop(idle)
            return self._make(max(_SMALLEST, 1 << (size - 1).bit_length()))
        except BaseException:
            self._free.release()
            raise

    def give_back(self, region: Region) -> None:
        """A region whose request has ended on the server too."""
        with self._lock:
            self._idle.append(region)
        self._free.release()

    def lose(self) -> None:
        """Count out a region that is not to be used again."""
        self._free.release()

    def empty(self) -> list[Region]:
        """The idle regions, which leave the pool."""
        with self._lock:
            idle, self._idle = self._idle, []
        return idle
