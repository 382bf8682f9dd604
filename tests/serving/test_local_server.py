"""The local server: a real Triton, ready when it answers."""

import subprocess

from chextriev.serving.environment import ServerEnvironment
from chextriev.serving.local_server import LocalServer
from tests.serving.toy_repository import ENSEMBLE, WORKER


def test_a_ready_server_answers_a_canary(toy_server: LocalServer) -> None:
    assert toy_server.models == (ENSEMBLE, WORKER)
    assert toy_server.answers_canary()


def test_models_import_our_source_and_numpy_1(server_env: ServerEnvironment) -> None:
    code = "import numpy, chextriev.serving.wire as wire; print(numpy.__version__, wire.__file__)"
    done = subprocess.run([server_env.python, "-I", "-c", code], capture_output=True, text=True, check=True)
    version, place = done.stdout.split()
    assert version == "1.26.4"
    assert place.startswith(str(server_env.source))
