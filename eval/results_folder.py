"""A folder of results that one run at a time writes to, and that a later run of the same work goes on in."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chextriev.errors import OutputExists
from chextriev.scratch import locked


@contextmanager
def claimed(out: Path, lock_name: str, *, holds: str) -> Iterator[None]:
    """Hold the lock of a folder of results, which ends with the process; make the folder if need be.

    lock_name: a hidden file that marks the folder as one of these. holds: what such a folder holds, as "engine
    comparison". OutputExists where the folder holds something else or another run is writing to it.
    """
    lock = out / lock_name
    if not lock.exists() and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputExists(f"{out} exists and holds no {holds}; choose another output or move it away")
    out.mkdir(parents=True, exist_ok=True)
    lock.touch()
    with locked(lock) as held:
        if not held:
            raise OutputExists(
                f"another run is writing to {out}, or its file system has no locks; wait for it, or choose another"
                " output"
            )
        yield
