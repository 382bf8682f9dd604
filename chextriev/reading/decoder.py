"""The process that reads DICOM files: `python -m chextriev.reading.decoder`, asked through its standard input.

Parsers and decoders of compressed pixels are large and partly not Python; what a damaged or hostile file does to them
ends here, with this process. It has a limit of memory, a clock that ends it whatever it does, and no way to write but
its answer. A request is a header of JSON and a file, an answer a header of JSON and pixels, each preceded by their
lengths.
"""

import contextlib
import json
import logging
import signal
import struct
import sys
import warnings
import zlib
from dataclasses import asdict
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from chextriev.errors import ChextrievError, EmptyImage, UnreadableImage
from chextriev.optional import require
from chextriev.reading.decoders import LENGTHS
from chextriev.reading.dicom_levels import to_grey, turned_upright
from chextriev.reading.dicom_parts import read_codes, read_data_set
from chextriev.reading.facts import Facts, check_modality, read_facts

_FAULTS: tuple[type[Exception], ...] = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, OSError, RuntimeError, TypeError),
    *(ValueError, struct.error, zlib.error),
)
"""What pydicom and its decoders raise for damaged files. Their words hold values of the file, and are not passed on."""


def decode_dicom(content: bytes, limits: dict[str, Any]) -> tuple[Facts, npt.NDArray[np.uint8]]:
    """The facts and the grey levels [height, width] uint8 of a DICOM file; ImageError where it has none to read.

    limits: max_elements, max_inflated_bytes, max_pixels and strict of `ReadSettings`.
    """
    sizes = {name: limits[name] for name in ("max_elements", "max_inflated_bytes")}
    try:
        with require("pydicom.config", extra="dicom").disable_value_validation():  # what is needed is checked here
            data = read_data_set(content, **sizes)
            check_modality(data)
            facts = read_facts(data, strict=limits["strict"])
            codes, stored = read_codes(data, max_pixels=limits["max_pixels"])
            pixels = turned_upright(to_grey(codes, stored, data), facts.turn)
    except MemoryError:
        raise UnreadableImage("it needs more memory than one file may take") from None
    except ChextrievError:
        raise
    except _faults():
        raise UnreadableImage("damaged, or no DICOM image") from None
    if pixels.min() == pixels.max():
        raise EmptyImage("every pixel is equal; a radiograph is needed")
    return facts, pixels


def _faults() -> tuple[type[Exception], ...]:
    errors = require("pydicom.errors", extra="dicom")
    return *_FAULTS, errors.InvalidDicomError, errors.BytesLengthException


def _answer(request: dict[str, Any], content: bytes) -> tuple[dict[str, Any], bytes]:
    try:
        facts, pixels = decode_dicom(content, request)
    except ChextrievError as error:
        return {"error": type(error).__name__, "words": str(error)}, b""
    return {"facts": asdict(facts), "shape": pixels.shape}, pixels.tobytes()


def serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer until the requests end."""
    taken = _address_space()
    while len(lengths := requests.read(LENGTHS.size)) == LENGTHS.size:
        header_bytes, content_bytes = LENGTHS.unpack(lengths)
        request = json.loads(requests.read(header_bytes))
        _limit(request, taken)  # before the file is here: the last one's limits may be too narrow for it
        content = requests.read(content_bytes)
        header, pixels = _answer(request, content)
        signal.setitimer(signal.ITIMER_REAL, 0)
        text = json.dumps(header).encode()
        answers.write(LENGTHS.pack(len(text), len(pixels)))
        answers.write(text)
        answers.write(pixels)
        answers.flush()


def _limit(request: dict[str, Any], taken: int) -> None:
    """Bound the memory and the time of one request; SIGALRM ends the process, in the midst of a decoder too."""
    import resource

    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    wanted = taken + request["decode_memory_bytes"]
    resource.setrlimit(resource.RLIMIT_AS, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))
    signal.setitimer(signal.ITIMER_REAL, request["decode_timeout_s"])


def _address_space() -> int:
    """Bytes of address space that this process has before it reads anything; 0 where the system does not say."""
    try:
        with open("/proc/self/statm") as stream:
            import resource

            return int(stream.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 0


def main() -> None:
    """Quiet what could repeat a file's values, load what decodes, answer."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold the patient's data
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one who asked ends this process
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # whoever started this process may have ignored it
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
    warnings.simplefilter("ignore")
    logging.disable()
    with contextlib.suppress(ChextrievError):  # the first file says what is not installed
        for module in ("pydicom.filereader", "pydicom.pixels.decoders", "gdcm", "jpeg_ls", "openjpeg", "rle"):
            require(module, extra="dicom")
    serve(sys.stdin.buffer, sys.stdout.buffer)


if __name__ == "__main__":
    main()
