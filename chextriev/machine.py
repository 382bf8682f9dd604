"""What a measurement ran on: enough to compare numbers, nothing that names the machine."""

import os
import platform
import random
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any


def describe_machine() -> dict[str, Any]:
    """Processor, its instructions, cores this process may use, Python; no host name."""
    return {
        "cpu": _processor(),
        "arithmetic": cpu_arithmetic(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
    }


INTEGER_INSTRUCTIONS = ("amx_int8", "avx512_vnni", "avx_vnni", "avx512bw", "avx2")
"""What decides how a processor multiplies 8-bit integers, best first."""


def cpu_arithmetic() -> str:
    """Architecture and the best instructions for integers, on which an engine's numbers and speed depend."""
    flags = _cpu_line("flags")
    found = next((name for name in INTEGER_INSTRUCTIONS if name in flags.split()), "")
    return f"{platform.machine()} {found}".strip()


def time_in_turn(works: Mapping[str, Callable[[], object]], *, repeats: int) -> dict[str, list[float]]:
    """Seconds of each piece of work, `repeats` times in turn after a first call of each that is not counted.

    Turns let a busy machine slow all of them alike, so that their ratios hold. Their order is drawn for each turn (the
    same draws every time), since threads of what ran last may still wait busily and slow what follows.
    """
    draw, order = random.Random(0), list(works)
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()
    for _ in range(repeats):
        draw.shuffle(order)
        for name in order:
            begun = time.perf_counter()
            works[name]()
            seconds[name].append(time.perf_counter() - begun)
    return seconds


def median_ratio(slow: list[float], fast: list[float]) -> float:
    """How many times faster: the median over neighbouring repeats."""
    return median(a / b for a, b in zip(slow, fast, strict=True))


def peak_memory_bytes() -> int:
    """Largest resident memory of this process so far.

    Linux states it in /proc. `ru_maxrss` is for other systems: on Linux it begins with what the parent held when it
    started this process (execve takes it over), so a small child of a large parent seems large.
    """
    stated = _status_bytes("VmHWM:")
    if stated is not None:
        return stated
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def memory_bytes() -> int:
    """Resident memory of this process now; its peak where the system does not say."""
    stated = _status_bytes("VmRSS:")
    return peak_memory_bytes() if stated is None else stated


def _status_bytes(label: str) -> int | None:
    """What Linux says of this process under a label; None elsewhere."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(label)), None)


def _processor() -> str:
    """The processor's name; Linux keeps it where `platform` does not look."""
    return _cpu_line("model name") or platform.processor() or platform.machine()


def _cpu_line(label: str) -> str:
    """What Linux says of the first core under a label; nothing elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(label)), "")
