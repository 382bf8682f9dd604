"""Run `chextriev` with several lists of words in one process, and keep every file that is removed on the way.

    python watched_program.py KEPT WORDS.json

KEPT gets a copy of each file before it is unlinked or replaced, and `opened.json`, the paths that were opened for
writing. The log is written to stderr, at DEBUG.
"""

import json
import logging
import os
import shutil
import sys
from itertools import count
from pathlib import Path
from typing import Any

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND


def keep_removed(folder: Path) -> set[str]:
    """Copy what is about to be unlinked or replaced (audit events of Python) to this folder; what is opened to write.

    The set grows while the process lives.
    """
    numbers, copying = count(), [False]
    opened: set[str] = set()

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str | bytes) and arguments[2] & _WRITING and not copying[0]:
            opened.add(os.path.abspath(os.fsdecode(arguments[0])))
        if copying[0] or event not in ("os.remove", "os.rename"):
            return
        removed, holder = arguments[0], arguments[-1]
        if event == "os.rename":
            removed = arguments[1]
        path = os.path.join(f"/proc/self/fd/{holder}" if holder >= 0 else "", os.fsdecode(removed))
        copying[0] = True
        try:
            if os.path.isfile(path) and not os.path.islink(path):
                shutil.copyfile(path, folder / f"{os.getpid()}-{next(numbers)}")
        finally:
            copying[0] = False

    sys.addaudithook(watch)
    return opened


if __name__ == "__main__":
    kept = Path(sys.argv[1])
    written = keep_removed(kept)
    logging.basicConfig(level=logging.DEBUG)
    from chextriev.cli import main

    for words in json.loads(Path(sys.argv[2]).read_text()):
        sys.stdout.write(f"status {main(words)} of {' '.join(words[:2])}\n")
    (kept / "opened.json").write_text(json.dumps(sorted(written)))
