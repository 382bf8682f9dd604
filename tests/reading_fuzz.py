"""Damaged files of every kind, read in a process of its own: `python -m tests.reading_fuzz FIRST COUNT`.

Prints one line of JSON: how many of each outcome, by kind of file, and the most memory that a process took. Anything
but a radiograph or an error of chextriev ends the process with a traceback.
"""

import io
import json
import re
import resource
import signal
import sys
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from chextriev.errors import ChextrievError
from chextriev.reading import ReadSettings, read_image
from chextriev.reading.decoders import DECODERS
from tests import dicom_files
from tests.dicom_files import as_bytes, chest, data_set

SETTINGS = ReadSettings(
    max_file_bytes=2**22, max_pixels=2**22, max_inflated_bytes=2**22, decode_timeout_s=20, decode_memory_bytes=2**28
)
MEMORY_BYTES = 2 * 2**30
WATCHDOG_S = 60
_EXTREMES = (b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80", b"\xfe\xff\x00\xe0")


def corpus() -> dict[str, bytes]:
    """A sound file of every kind."""
    found = {f"dicom {syntax}": as_bytes(data_set(), syntax) for syntax in dicom_files.LOSSLESS}
    for syntax in (dicom_files.JPEG_LS_NEAR, dicom_files.J2K_LOSSY, dicom_files.JPEG_12):
        found[f"dicom {syntax}"] = as_bytes(data_set(), syntax)
    found["dicom 8 bits"] = as_bytes(data_set(bits=8), dicom_files.JPEG)
    table = dicom_files.look_up_table()
    found["dicom table"] = as_bytes(data_set(VOILUTSequence=[table], ViewCodeSequence=[dicom_files.view_code()]))
    for name, bits in (("jpeg", 8), ("png", 8), ("png", 16)):
        stream = io.BytesIO()
        Image.fromarray(chest(bits).astype(np.uint8 if bits == 8 else np.uint16)).save(stream, name)
        found[f"{name} {bits} bits"] = stream.getvalue()
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("folder/image", found["jpeg 8 bits"])
        archive.writestr("notes.txt", "notes")
    return {**found, "zip": stream.getvalue()}


def mutated(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """A file cut short, with bits flipped, bytes lost or added, a length made extreme, or a piece of another file."""
    reach = len(content) if rng.integers(2) else min(len(content), 900)
    place, size = int(rng.integers(reach)), int(rng.integers(1, 60))
    match rng.integers(7):
        case 0:
            return content[:place]
        case 1:
            changed = np.frombuffer(content, np.uint8).copy()
            changed[rng.integers(reach, size=size)] ^= np.uint8(1) << rng.integers(8, size=size, dtype=np.uint8)
            return changed.tobytes()
        case 2:
            return content[:place] + content[place + size :]
        case 3:
            return content[:place] + rng.bytes(size) + content[place:]
        case 4:
            return content[:place] + rng.bytes(size) + content[place + size :]
        case 5:
            extreme = _EXTREMES[int(rng.integers(len(_EXTREMES)))]
            return content[:place] + extreme + content[place + len(extreme) :]
        case _:
            start = int(rng.integers(len(other)))
            return content[:place] + other[start : start + 10 * size] + content[place:]


def outcome(content: bytes) -> str:
    """ "radiograph", or the name of the error that refuses the file."""
    signal.alarm(WATCHDOG_S)  # ends the process: nothing catches it
    try:
        read_image(content, settings=SETTINGS)
    except ChextrievError as error:
        contained = "broke the decoder" in str(error)
        return f"{type(error).__name__}{', in the decoder' if contained else ''}"
    return "radiograph"


def main(first: int, count: int) -> None:
    """Read `count` damaged files, from number `first` on."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    files = list(corpus().items())
    outcomes = {kind: Counter[str]() for kind, _ in files}
    for number in range(first, first + count):
        rng = np.random.default_rng(number)
        kind, content = files[number % len(files)]
        outcomes[kind][outcome(mutated(content, files[int(rng.integers(len(files)))][1], rng))] += 1
    signal.alarm(0)
    DECODERS.close()  # only ended processes are counted
    peak = max(own_peak_kib(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
    sys.stdout.write(json.dumps({"outcomes": outcomes, "peak_bytes": 1024 * peak}) + "\n")


def own_peak_kib() -> int:
    """Of this program alone: the system's `ru_maxrss` counts what the process held before it became this program."""
    return int(re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[0])


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
