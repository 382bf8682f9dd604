"""The Dockerfiles are sound as far as a linter can tell, and agree with each other and with the package."""

import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from chextriev.serving.doctor.versions import HOLES
from tests.docker.production import DOCKER

ROOT = DOCKER.parent
IMAGES = sorted(DOCKER.glob("*.Dockerfile"))
REGISTRIES = ("nvcr.io/nvidia/", "python:")
COPIED = re.compile(r"^COPY (?!--from)(.+) \S+$", re.MULTILINE)


def lint(path: Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which("hadolint", path=sysconfig.get_path("scripts"))
    assert program, "hadolint is not installed; run: pip install 'chextriev[dev]'"
    return subprocess.run([program, "--no-color", str(path)], capture_output=True, text=True)


def argument(path: Path, name: str) -> str:
    """The default of a build argument."""
    return re.findall(rf"^ARG {name}=(\S+)$", path.read_text(), re.MULTILINE)[0]


def test_there_are_three_images() -> None:
    assert [path.stem for path in IMAGES] == ["export", "serve", "train"]


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.stem)
def test_the_linter_has_nothing_to_say(path: Path) -> None:
    done = lint(path)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_linter_does_speak(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM debian:latest\nRUN apt-get install curl\nUSER root\n")
    done = lint(tmp_path / "Dockerfile")
    assert done.returncode == 1
    assert "DL3007" in done.stdout


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.stem)
def test_images_run_as_nobody_special_on_pinned_public_ones(path: Path) -> None:
    text = path.read_text()
    bases = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    assert len(bases) >= 2
    assert all(base.startswith(REGISTRIES) and ":" in base and "latest" not in base for base in bases)
    last = text[text.rindex("\nFROM ") :]
    assert "USER 10001:10001" in last
    assert last.index("USER ") < last.index("ENTRYPOINT ")
    assert "HEALTHCHECK " in last
    assert not re.search(r"pip.*install", last)
    assert not re.search(r"(?i)password|token|secret_|api_key", text)


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.stem)
def test_everything_copied_is_there_and_is_let_through(path: Path) -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    sources = [source for line in COPIED.findall(path.read_text()) for source in line.split()]
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert source in allowed or source.split("/")[0] in allowed, source


def test_a_plan_is_built_by_the_release_that_serves_it() -> None:
    releases = {argument(DOCKER / f"{name}.Dockerfile", "TRITON") for name in ("serve", "export")}
    assert len(releases) == 1
    assert f"chextriev-serve:{releases.pop()}" in (DOCKER / "compose.yaml").read_text()


def test_the_served_release_has_every_fix_that_the_doctor_asks_for() -> None:
    release = argument(DOCKER / "serve.Dockerfile", "TRITON")
    assert tuple(map(int, release.split("."))) >= max(tuple(map(int, hole.release.split("."))) for hole in HOLES)


def test_the_server_has_numpy_1_and_all_that_it_imports() -> None:
    pinned = dict(
        line.split("==") for line in (ROOT / "serving" / "requirements.txt").read_text().splitlines() if "==" in line
    )
    assert pinned["numpy"] == "1.26.4"
    assert {"onnxruntime", "pillow", "simplejpeg", "faiss-cpu", "pyarrow"} <= set(pinned)


def test_the_health_check_needs_nothing_but_what_the_server_has() -> None:
    code = (
        "import sys, chextriev.serving.doctor.health; print([m for m in ('grpc', 'tritonclient') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
