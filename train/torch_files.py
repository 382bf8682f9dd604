"""Files that torch wrote, read without running any code they may hold."""

import pickle
import struct
import warnings
from pathlib import Path
from typing import BinaryIO

import torch

from chextriev.errors import UnreadableCheckpoint

_UNREADABLE = (  # what torch.load raises for truncated and altered files, found by cutting and altering them
    *(OSError, EOFError, RuntimeError, ValueError, LookupError, TypeError, AttributeError, AssertionError),
    *(OverflowError, MemoryError, struct.error, pickle.UnpicklingError),
)


def load_plain(path: Path, *, content: BinaryIO | None = None) -> object:
    """The content of a file of tensors and plain values; UnreadableCheckpoint if truncated or if it holds more.

    content: the file's bytes, where they were read (and verified) before; path then only names it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on pickles that are then refused
            loaded: object = torch.load(content or path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise UnreadableCheckpoint(
            f"{path}: truncated, or more than tensors and plain values ({type(error).__name__}); a file that torch.save"
            " wrote is needed"
        ) from None
    return loaded
