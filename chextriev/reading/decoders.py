"""Processes that read DICOM files, kept for the next one: starting one takes longer than reading a radiograph."""

import atexit
import contextlib
import json
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import IO, Any

from chextriev.errors import UnreadableImage
from chextriev.reading.settings import ReadSettings

LENGTHS = struct.Struct(">IQ")
"""Of a message's header and of what follows it."""
_LIMITS = ("max_elements", "max_inflated_bytes", "max_pixels", "strict", "decode_timeout_s", "decode_memory_bytes")


class Decoders:
    """As many processes as callers that read at once; idle ones wait for the next."""

    def __init__(self) -> None:
        self._idle: list[subprocess.Popen[bytes]] = []
        self._inherited: list[subprocess.Popen[bytes]] = []
        self._lock = threading.Lock()
        self._owner = os.getpid()

    def ask(self, content: bytes, settings: ReadSettings) -> tuple[dict[str, Any], bytes]:
        """A process's answer to a file: header and pixels; UnreadableImage where the file ended the process."""
        request = json.dumps({name: getattr(settings, name) for name in _LIMITS}).encode()
        with self._process() as process:
            answer = _exchange(process, request, content)
        if answer is None:
            raise UnreadableImage(
                f"reading it took more than {settings.decode_timeout_s:g} s or broke the decoder; it is damaged"
            )
        return answer

    def close(self) -> None:
        """End the idle processes, which their next use starts again."""
        with self._lock:
            self._own()
            ended, self._idle = self._idle, []
        for process in ended:
            _end(process)

    def _own(self) -> None:
        """After a fork, leave the processes to the parent, whose they are."""
        if self._owner != os.getpid():
            self._inherited, self._idle, self._owner = self._idle, [], os.getpid()

    @contextlib.contextmanager
    def _process(self) -> Iterator[subprocess.Popen[bytes]]:
        with self._lock:
            self._own()
            process = self._idle.pop() if self._idle else None
        process, sound = process or _started(), False
        try:
            yield process
            sound = process.poll() is None
        finally:  # one that was interrupted between question and answer is no longer of use
            if sound:
                with self._lock:
                    self._idle.append(process)
            else:
                _end(process)


def _started() -> subprocess.Popen[bytes]:
    one_thread = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "chextriev.reading.decoder"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # decoders write what they find there
        env={**os.environ, **one_thread},
    )


def _exchange(process: subprocess.Popen[bytes], request: bytes, content: bytes) -> tuple[dict[str, Any], bytes] | None:
    """None where the process ended instead of answering; it is then collected."""
    questions, answers = _pipes(process)
    try:
        for part in (LENGTHS.pack(len(request), len(content)), request, content):
            questions.write(part)
        questions.flush()
        header_bytes, pixel_bytes = LENGTHS.unpack(_exactly(answers, LENGTHS.size))
        return json.loads(_exactly(answers, header_bytes)), _exactly(answers, pixel_bytes)
    except (BrokenPipeError, EOFError):
        process.kill()
        process.wait()
        return None


def _exactly(stream: IO[bytes], count: int) -> bytes:
    found = stream.read(count)
    if len(found) < count:
        raise EOFError
    return found


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    if process.stdin is None or process.stdout is None:
        raise BrokenPipeError
    return process.stdin, process.stdout


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()  # closing its input is not enough where a fork of this process holds that too
    for stream in (process.stdin, process.stdout):
        with contextlib.suppress(BrokenPipeError):
            if stream is not None:
                stream.close()
    process.wait()


DECODERS = Decoders()
"""Those of this process."""
atexit.register(DECODERS.close)
