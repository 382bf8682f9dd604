"""Which paths Triton can pass on to the process of a model: it splits that command line at spaces."""

import re
from pathlib import Path

_PLAIN = re.compile(r"[\w./+@=:,~-]+")


def is_plain(path: Path) -> bool:
    """Whether a path has letters, digits and a few signs alone. With others, models do not load, and Triton hangs."""
    return _PLAIN.fullmatch(str(path)) is not None
