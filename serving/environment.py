"""The environment of the local server: numpy 1, ONNX Runtime, Faiss and a Triton that is installed as a package.

Triton's Python backend embeds the Python that it finds first in PATH, and ignores PYTHONPATH. So there are two virtual
environments in the user's cache: a large one with the packages, keyed by Python's version and the pinned list, and for
each state of our own source a small one, which holds that source and is chained to the large one. A changed source
makes another small one, and never touches what a running server imports.
"""

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from time import time

from chextriev.errors import ServerNotStarted
from chextriev.progress import track
from chextriev.scratch import locked, remove, scratch_beside
from chextriev.serving.plain_path import is_plain

TRITON = "nvidia-pytriton==0.7.0"
"""The wheel that carries tritonserver 2.51.0 and its Python backend, for Linux on x86_64 with glibc 2.35 or later."""
CACHE = "CHEXTRIEV_CACHE"
"""Environment variable: the folder for what can be made again, in place of one in the user's cache."""
PYTHONS = ((3, 11), (3, 12))
"""Those that numpy 1.26, this Triton and this package all have builds for."""
GLIBC = (2, 35)
PACKAGES = ("chextriev", "chextriev.serving", "chextriev.export", "chextriev.index")
_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
_SITE = Path("lib", f"python{_VERSION}", "site-packages")
_STAMP = "complete"
_SAID = 400  # characters of what a program complained of
_PASSED_ON = ("HOME", "LANG", "TMPDIR", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
_KEPT_S = 86_400  # a small environment that no server holds is removed when it is a day old


@dataclass(frozen=True)
class ServerEnvironment:
    """Where the server's programs and libraries lie. packages: the large environment; source: the small one."""

    packages: Path
    source: Path

    @property
    def python(self) -> Path:
        """An interpreter that imports what the server's models import."""
        return self.source / "bin" / "python3"

    @property
    def tritonserver(self) -> Path:
        """The server's program."""
        return self.packages / _SITE / "pytriton" / "tritonserver" / "bin" / "tritonserver"

    @property
    def backends(self) -> Path:
        """For `--backend-directory`: the Python backend with the stub of this Python."""
        return self.packages / "backends"

    def variables(self) -> dict[str, str]:
        """Environment variables for `tritonserver`."""
        libraries = (self.packages / "libraries", self.packages / _SITE / "nvidia_pytriton.libs")
        kept = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        path = os.pathsep.join([str(self.python.parent), os.environ.get("PATH", os.defpath)])
        return {**kept, "PATH": path, "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries))}

    @contextmanager
    def held(self) -> Iterator[int]:
        """Keep the source from being cleaned away while a server runs; gives a descriptor that a child may inherit."""
        descriptor = os.open(self.source, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            yield descriptor
        finally:
            os.close(descriptor)


def cache_folder() -> Path:
    """The folder for what can be made again: CHEXTRIEV_CACHE, or `chextriev` in the user's cache."""
    chosen = os.environ.get(CACHE)
    if chosen:
        return Path(chosen).absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache").absolute() / "chextriev"


def server_environment(directory: Path | None = None) -> ServerEnvironment:
    """The environment of the local server, made on first use (about 25 s, 600 MB, from a package index).

    directory: where it lies or is to lie, in place of the user's cache. Several processes may ask at once; one makes
    it. ServerNotStarted says what is missing: a fitting Python or system, its shared library, a package index.
    """
    check_platform()
    home = Path(directory or cache_folder() / "server").absolute()
    if not is_plain(home):
        raise ServerNotStarted(f"Triton takes no path with spaces, as in {home}; set {CACHE} to another folder")
    home.mkdir(parents=True, exist_ok=True)
    requirements = Path(__file__).with_name("requirements.txt")
    recipe = f"{sys.version} {sys.base_prefix} {TRITON}\n{requirements.read_text()}"
    packages = home / f"python{_VERSION}-{_digest(recipe.encode())}"
    lock = home / f"{packages.name}.lock"
    lock.touch()
    with locked(lock, wait=True):
        if not (packages / _STAMP).exists():
            _build(packages, requirements)
    return ServerEnvironment(packages, _source_environment(packages))


def check_platform() -> None:
    """ServerNotStarted where this Triton cannot run."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise ServerNotStarted(
            f"the local server runs on Linux on x86_64, this is {sys.platform} on {platform.machine()}; serve with the"
            " container image"
        )
    name, version = platform.libc_ver()
    if name != "glibc" or tuple(int(part) for part in version.split(".")[:2]) < GLIBC:
        raise ServerNotStarted(
            f"the local server needs glibc {'.'.join(map(str, GLIBC))} or later, this is {name or 'another C library'}"
            f" {version}; serve with the container image"
        )
    if sys.version_info[:2] not in PYTHONS:
        known = " or ".join(".".join(map(str, version)) for version in PYTHONS)
        raise ServerNotStarted(f"the local server needs Python {known}, this is {_VERSION}; use one of these")


def python_library() -> Path:
    """The shared library of this Python, which Triton's stub loads."""
    name = f"libpython{_VERSION}.so.1.0"
    folder = Path(sysconfig.get_config_var("LIBDIR") or "/usr/lib")
    places = (folder, folder / (sysconfig.get_config_var("MULTIARCH") or ""), Path(sys.base_prefix, "lib"))
    for place in places:
        if (place / name).exists():
            return place / name
    raise ServerNotStarted(
        f"this Python ({sys.base_prefix}) has no shared library {name}, which the local server needs; install it"
        f" (Debian: apt install libpython{_VERSION}; pyenv: PYTHON_CONFIGURE_OPTS=--enable-shared), or use another"
    )


def _build(packages: Path, requirements: Path) -> None:
    """Make the large environment; the stamp is written last, so that a half-made one is begun anew."""
    library = python_library()
    remove(packages)
    pip = [str(packages / "bin" / "python"), "-m", "pip", "install", "--no-deps", "--only-binary", ":all:"]
    works = (
        ("venv", [sys.executable, "-m", "venv", str(packages)]),
        ("packages", [*pip, "--requirement", str(requirements)]),
        ("Triton", [*pip, TRITON]),
    )
    for what, command in track(works, "server environment", unit="part"):
        _run(what, command, packages.with_name(f"{packages.name}.log"))
    triton = packages / _SITE / "pytriton" / "tritonserver"
    backend = packages / "backends" / "python"
    shutil.copytree(triton / "backends" / "python", backend)
    shutil.copy2(triton / "python_backend_stubs" / _VERSION / "triton_python_backend_stub", backend)
    (packages / "libraries").mkdir()
    (packages / "libraries" / library.name).symlink_to(library)
    (packages / _STAMP).touch()


def _run(what: str, command: list[str], log: Path) -> None:
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, check=False
    )
    with log.open("a") as stream:
        stream.write(done.stdout + done.stderr)
    if done.returncode:
        lines = (done.stdout + done.stderr).splitlines()
        said = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")] or lines
        raise ServerNotStarted(
            f"the server's environment could not be made ({what}): {' '.join(said)[:_SAID]}. Its first use needs a"
            f" package index and 1 GB of disk; the whole log is in {log}"
        )


def _source_environment(packages: Path) -> Path:
    """The small environment for our source as it is now."""
    files = dict(_source_files())
    source = packages.with_name(f"{packages.name}-source-{_digest(*files, *files.values())}")
    if not source.exists():
        with scratch_beside(source, Path.mkdir) as scratch:
            _write_source(scratch, files, packages)
            with suppress(OSError):  # another process has just made the same
                scratch.rename(source)
        _clean(packages, keep=source)
    return source


def _write_source(scratch: Path, files: dict[str, bytes], packages: Path) -> None:
    for name, content in files.items():
        path = scratch / _SITE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (scratch / "bin").mkdir()
    (scratch / "bin" / "python3").symlink_to((packages / "bin" / "python3").resolve())
    shutil.copy2(packages / "pyvenv.cfg", scratch)
    # A stub ignores PYTHONDONTWRITEBYTECODE, and would write beside each model that is served.
    lines = [str(packages / _SITE), "import sys; sys.dont_write_bytecode = True; import chextriev_stub_start"]
    (scratch / _SITE / "chextriev_stub_start.py").write_bytes(Path(__file__).with_name("stub_start.py").read_bytes())
    (scratch / _SITE / "packages.pth").write_text("\n".join([*lines, ""]))


def _source_files() -> Iterator[tuple[str, bytes]]:
    """Name below site-packages and content of each of our modules, wherever an editable install has them."""
    for package in PACKAGES:
        for folder in map(Path, import_module(package).__path__):
            for path in sorted(folder.rglob("*.py")):
                yield str(Path(*package.split("."), path.relative_to(folder))), path.read_bytes()
    with suppress(metadata.PackageNotFoundError):  # the engines are found by their entry points
        installed = metadata.distribution("chextriev")
        information = f"chextriev-{installed.version}.dist-info"
        for name in ("METADATA", "entry_points.txt"):
            yield f"{information}/{name}", (installed.read_text(name) or "").encode()


def _clean(packages: Path, keep: Path) -> None:
    """Remove small environments that no server holds and that are a day old."""
    for other in packages.parent.glob(f"{packages.name}-source-*"):
        if other != keep and other.stat().st_mtime < time() - _KEPT_S:
            with locked(other) as unused:
                if unused:
                    remove(other)


def _digest(*parts: str | bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()[:12]
