"""Ctrl-C ends a command even where somebody swallowed it."""

import os
import signal

import pytest

from chextriev.interrupts import raise_if_interrupted, watching_interrupts
from chextriev.progress import track


def swallow_ctrl_c() -> None:
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        signal.getsignal(signal.SIGINT)  # the handler runs before the next instruction


def test_a_swallowed_interrupt_is_raised_by_the_next_step() -> None:
    with watching_interrupts():
        raise_if_interrupted()
        swallow_ctrl_c()
        with pytest.raises(KeyboardInterrupt):
            next(track([1, 2, 3], "steps"))
    raise_if_interrupted()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_foreign_handler_stays() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with watching_interrupts():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
