"""The server's environment: what it holds, where it lies, and what is said where it cannot be made."""

import os
import platform
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from chextriev.errors import ServerNotStarted
from chextriev.serving import environment
from chextriev.serving.environment import ServerEnvironment, cache_folder, python_library, server_environment

LIBRARIES = "faiss, numpy, onnxruntime, PIL, pyarrow.parquet, simplejpeg, tqdm"
OURS = "chextriev.export.onnx_runner, chextriev.index.search, chextriev.serving.wire"


def ask(python: Path, code: str) -> str:
    done = subprocess.run([python, "-I", "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_models_import_our_source_beside_numpy_1(server_env: ServerEnvironment) -> None:
    found = ask(server_env.python, f"import {LIBRARIES}, {OURS}; print(numpy.__version__, chextriev.__file__)")
    version, place = found.split()
    assert version == "1.26.4"
    assert Path(place).is_relative_to(server_env.source)


def test_libraries_that_are_built_against_numpy_work_with_numpy_1(server_env: ServerEnvironment) -> None:
    code = (
        "import faiss, numpy as np, pyarrow, simplejpeg\n"
        "vectors = np.eye(4, dtype='float32'); index = faiss.IndexFlatIP(4); index.add(vectors)\n"
        "grey = np.arange(64, dtype='uint8').reshape(8, 8, 1)\n"
        "jpeg = simplejpeg.encode_jpeg(grey, colorspace='GRAY')\n"
        "print(index.search(vectors, 1)[1].ravel().tolist(), pyarrow.array(np.arange(3)).to_numpy().tolist(),\n"
        "      simplejpeg.decode_jpeg(jpeg, 'GRAY').shape)"
    )
    assert ask(server_env.python, code) == "[0, 1, 2, 3] [0, 1, 2] (8, 8, 1)"


def test_its_libraries_are_the_pinned_ones_and_need_no_other(server_env: ServerEnvironment) -> None:
    pinned = (Path(environment.__file__).parent / "requirements.txt").read_text().splitlines()
    pinned = [line for line in pinned if not line.startswith("#")] + [environment.TRITON]
    code = "from importlib.metadata import distribution as d; import sys; print(*(d(n).version for n in sys.argv[1:]))"
    names = [line.partition("==")[0] for line in pinned]
    done = subprocess.run([server_env.python, "-I", "-c", code, *names], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [line.partition("==")[2] for line in pinned]


def test_a_second_call_gives_the_same_environment(server_env: ServerEnvironment) -> None:
    assert server_environment() == server_env


def test_the_server_sees_no_more_of_the_user_than_it_needs(
    server_env: ServerEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PASSWORD", "secret")
    variables = server_env.variables()
    assert "secret" not in variables.values()
    assert variables["PATH"].split(os.pathsep)[0] == str(server_env.python.parent)


def test_changed_source_goes_beside_what_a_server_may_use(
    server_env: ServerEnvironment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = tmp_path / "packages"
    packages.symlink_to(server_env.packages)
    monkeypatch.setattr(environment, "_KEPT_S", -1.0)
    made = []
    for text in ("one", "two", "three"):
        monkeypatch.setattr(environment, "_source_files", lambda text=text: [("chextriev_toy.py", text.encode())])
        made.append(environment._source_environment(packages))
        if text == "one":
            held = ServerEnvironment(packages, made[0]).held()
            held.__enter__()
    assert [path.exists() for path in made] == [True, False, True]  # the first is held, the second was not
    held.__exit__(None, None, None)
    name = environment._SITE / "chextriev_toy.py"
    assert ((made[0] / name).read_text(), (made[2] / name).read_text()) == ("one", "three")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No package index can be reached."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "file:///nowhere")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")


@pytest.mark.slow  # pip tries each package several times
def test_without_a_package_index_it_says_so_and_begins_anew_next_time(tmp_path: Path, offline: None) -> None:
    with pytest.raises(
        ServerNotStarted, match=r"No matching distribution found for faiss-cpu==.*needs a package index"
    ):
        server_environment(tmp_path)
    (half,) = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert (half / "bin" / "python").exists()
    (half / "left-over").touch()
    with pytest.raises(ServerNotStarted):
        server_environment(tmp_path)
    assert not (half / "left-over").exists()


def test_the_cache_is_where_the_user_wants_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CHEXTRIEV_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "chextriev"
    monkeypatch.setenv("CHEXTRIEV_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("CHEXTRIEV_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "chextriev"


@pytest.mark.parametrize(
    ("target", "value", "words"),
    [
        ((sys, "platform"), "darwin", "runs on Linux on x86_64, this is darwin"),
        ((platform, "machine"), lambda: "aarch64", "runs on Linux on x86_64, this is linux on aarch64"),
        ((platform, "libc_ver"), lambda: ("glibc", "2.31"), "needs glibc 2.35 or later, this is glibc 2.31"),
        ((platform, "libc_ver"), lambda: ("", ""), "this is another C library"),
        ((environment, "PYTHONS"), ((3, 99),), "needs Python 3.99, this is 3.1"),
    ],
)
def test_a_machine_that_cannot_run_it_is_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    target: tuple[object, str],
    value: object,
    words: str,
) -> None:
    monkeypatch.setattr(*target, value)
    with pytest.raises(ServerNotStarted, match=words):
        server_environment(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_cache_under_a_name_with_spaces_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ServerNotStarted, match=r"no path with spaces, as in .*; set CHEXTRIEV_CACHE to another folder"):
        server_environment(tmp_path / "Dr Meier")


def test_a_python_without_a_shared_library_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_config_var", lambda name: str(tmp_path))
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path))
    with pytest.raises(ServerNotStarted, match=r"has no shared library libpython3\.\d+\.so\.1\.0.*--enable-shared"):
        python_library()
