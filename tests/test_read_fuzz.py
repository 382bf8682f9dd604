"""Damaged files of every kind: each is a radiograph or an error in words, within bounds of memory and time."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
PEAK_BYTES = 600 * 2**20
"""Of the reading process and of each decoder; sound files of this size take 90 MB."""
ALLOWED = {
    *("radiograph", "UnreadableImage", "UnsuitableImage", "EmptyImage", "TruncatedArchive"),
    "UnreadableImage, in the decoder",
}


def outcomes(first: int, count: int) -> dict[str, dict[str, int]]:
    """Outcomes of damaged files by kind of file, read by a process that must end well."""
    command = [sys.executable, "-W", "error", "-m", "tests.reading_fuzz", str(first), str(count)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["peak_bytes"] < PEAK_BYTES
    kinds: dict[str, dict[str, int]] = found["outcomes"]
    assert sum(number for kind in kinds.values() for number in kind.values()) == count
    assert {name for kind in kinds.values() for name in kind} <= ALLOWED
    return kinds


def test_damaged_files_are_read_or_refused() -> None:
    kinds = outcomes(0, 300)
    assert all(kind.get("radiograph", 0) < sum(kind.values()) for kind in kinds.values()), "each kind is damaged"
    assert sum(kind.get("radiograph", 0) for kind in kinds.values()) > 10, "some damage is harmless"


@pytest.mark.slow
def test_ten_thousand_damaged_files_are_read_or_refused() -> None:
    kinds = outcomes(0, 10_000)
    assert all(kind.get("radiograph", 0) for kind in kinds.values()), "every kind has harmless damage"
