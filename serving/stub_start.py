"""What the environment's Python does when it starts in a stub of Triton: it closes the stub's memory to other users.

Radiographs pass through that memory. Triton makes it for everybody to read, whatever the umask says, and gives the stub
its name on the command line. The environment loads this file by itself: it imports nothing but Python's own library.
"""

import os
from contextlib import suppress
from pathlib import Path

MEMORY = Path("/dev/shm")


def close_memory(words: list[str]) -> None:
    """Let the user alone read the shared memory of a server of ours that a command line names."""
    for word in words:
        if word.startswith("chextriev-") and "/" not in word:
            with suppress(OSError):
                (MEMORY / word).chmod(0o600)


with suppress(OSError):
    close_memory([os.fsdecode(word) for word in Path("/proc/self/cmdline").read_bytes().split(b"\0")])
