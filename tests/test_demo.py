"""The whole job as a user runs it: in a process of its own, interrupted, resumed, repeated."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from chextriev.cli import EXIT_INTERRUPTED, EXIT_REFUSED, main

STAGES = 8


@contextmanager
def hearing_ctrl_c() -> Iterator[None]:
    """A shell starts its background jobs deaf to Ctrl-C, and children inherit that; those begun here do not.

    Not by `preexec_fn`, which makes a fork: a process that gRPC runs in, as in tests of the client, may die of that.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def demo(out: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "chextriev", "demo", str(out), "--patients", "12", *words]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    pipe = subprocess.PIPE
    with hearing_ctrl_c():
        started = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment)
    with started as process:
        try:
            yield process
        finally:
            process.kill()


def interrupt_after(out: Path, stage: int) -> None:
    """Press Ctrl-C when the line of a stage has appeared, so in the midst of the next one."""
    with demo(out) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(f"[{stage}/"):
                process.send_signal(signal.SIGINT)
                break
        _, said = process.communicate()
    assert process.returncode == EXIT_INTERRUPTED, said
    assert "interrupted" in said


def finish(out: Path) -> str:
    with demo(out) as process:
        printed, said = process.communicate()
    assert process.returncode == 0, said
    return printed


def run_the_ten_lines_of_the_readme(folder: Path) -> list[str]:
    """What they print, in a folder where `demo` is."""
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", readme, flags=re.MULTILINE | re.DOTALL)
    assert len(code.strip().splitlines()) <= 10
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip().splitlines()


# Each start of the demo takes 10 s; what features and training do after Ctrl-C has tests of its own.
@pytest.mark.parametrize("stages", [(2,), pytest.param((1, 2, 3), marks=pytest.mark.slow)], ids=["once", "thrice"])
def test_interrupted_resumed_and_repeated(tmp_path: Path, stages: tuple[int, ...]) -> None:
    out = tmp_path / "demo"
    for stage in stages:
        interrupt_after(out, stage)
        assert not (out / "report.html").exists()
    first = finish(out)
    lines = re.findall(r"^\[\d/8\] .*$", first, flags=re.MULTILINE)
    assert len(lines) == STAGES
    assert all("unchanged, reused" in line for line in lines[: stages[-1]])
    results = json.loads((out / "results.json").read_text())
    assert results["settings"]["synthetic"] is True
    assert set(results["systems"]) == {"v6", "frozen features, mean-pooled"}
    report = (out / "report.html").read_text()
    assert "Synthetic phantoms, not patients" in report
    assert report.count("<svg") > 1
    assert "of 153 pairs of regions are linked" in report

    assert len(run_the_ten_lines_of_the_readme(tmp_path)) == 5

    again = finish(out)
    assert again.count("unchanged, reused") == STAGES - 2  # the queries are asked anew
    assert json.loads((out / "results.json").read_text()) == results


def test_the_demo_refuses_what_it_cannot_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", str(tmp_path / "out"), "--data", str(tmp_path)]) == EXIT_REFUSED
    assert "images.csv" in capsys.readouterr().err
    assert not (tmp_path / "out" / "study").exists()


@pytest.mark.real
@pytest.mark.slow
def test_real_radiographs(tmp_path: Path, real_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", str(tmp_path), "--data", str(real_data), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    at_5 = content["systems"]["v6"]["k"]["5"]
    assert at_5["macro"]["precision"] > at_5["chance"]["macro"]["precision"]
    assert "Synthetic" not in (tmp_path / "report.html").read_text()
