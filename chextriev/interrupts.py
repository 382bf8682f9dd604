"""Ctrl-C that is not lost: some libraries swallow KeyboardInterrupt, while they are imported for instance."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_pressed = threading.Event()


@contextmanager
def watching_interrupts() -> Iterator[None]:
    """While it lasts, Ctrl-C raises KeyboardInterrupt as always and is remembered for `raise_if_interrupted`."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield  # somebody else handles signals
        return
    _pressed.clear()
    signal.signal(signal.SIGINT, _remember)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        _pressed.clear()


def raise_if_interrupted() -> None:
    """Raise the KeyboardInterrupt that somebody swallowed; long work calls this at every step."""
    if _pressed.is_set():
        raise KeyboardInterrupt


def _remember(number: int, frame: FrameType | None) -> None:
    _pressed.set()
    signal.default_int_handler(number, frame)
