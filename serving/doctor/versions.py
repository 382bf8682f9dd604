"""Releases of Triton that closed a hole, from NVIDIA's security bulletins and release notes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Hole:
    """What a server older than `fixed` suffers. release: of the container image."""

    fixed: tuple[int, int]
    release: str
    what: str


HOLES = (
    Hole((2, 58), "25.05", "recursion in JSON and integer overflows end the server (CVE-2025-23323 to -23327)"),
    Hole((2, 60), "25.08", "HTTP chunks and the Python backend let others run code (CVE-2025-23310, -23311, -23319)"),
    Hole((2, 67), "26.03", "ways around the restriction of interfaces (CVE-2026-24206, -24207)"),
    Hole((2, 69), "26.05", "nested JSON, HTTP chunks and other input end the server (CVE-2026-47476 to -47482)"),
    Hole((2, 70), "26.06", "path traversal and unlimited allocation (CVE-2026-47606, -47627 to -47630)"),
    Hole((2, 71), "26.07", "endless iteration over a request (CVE-2026-16497)"),
)
"""As of November 2026, from https://github.com/NVIDIA/product-security and Triton's release notes. 25.07 fixed what
stands here for 25.08, but its minor version is that of 25.06."""


def read_version(text: str) -> tuple[int, int] | None:
    """Major and minor version of "2.51.0"; None where it is none."""
    parts = text.split(".")
    if len(parts) < 2 or not all(part.isdecimal() and len(part) < 6 for part in parts[:2]):
        return None
    return int(parts[0]), int(parts[1])


def open_holes(version: tuple[int, int]) -> list[Hole]:
    """What a server of this version suffers, newest first."""
    return [hole for hole in reversed(HOLES) if version < hole.fixed]
