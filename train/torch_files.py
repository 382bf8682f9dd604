"""Files that torch wrote, read without running any code they may hold."""

import pickle
import struct
import warnings
from pathlib import Path

import torch

from chextriev.errors import UnreadableCheckpoint

_UNREADABLE = (  # what torch.load raises for truncated and altered files, found by cutting and altering them
    *(OSError, EOFError, RuntimeError, ValueError, LookupError, TypeError, AttributeError, AssertionError),
    *(OverflowError, MemoryError, struct.error, pickle.UnpicklingError),
)


def load_plain(path: Path) -> object:
    """The content of a file of tensors and plain values; UnreadableCheckpoint if truncated or if it holds more."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on pickles that are then refused
            content: object = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise UnreadableCheckpoint(
            f"{path}: truncated, or more than tensors and plain values ({type(error).__name__}); a file that torch.save"
            " wrote is needed"
        ) from None
    return content
