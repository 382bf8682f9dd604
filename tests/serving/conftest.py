"""Shared by the tests of serving: the server's environment, made once per user, and a server that answers zeros."""

from collections.abc import Iterator

import pytest

from chextriev.serving.environment import ServerEnvironment, server_environment
from chextriev.serving.local_server import LocalServer
from tests.serving.toy_repository import write_toy_repository


@pytest.fixture(scope="session")
def server_env() -> ServerEnvironment:
    """The environment of the local server; its first making needs a package index and about 30 s."""
    return server_environment()


@pytest.fixture(scope="session")
def toy_server(server_env: ServerEnvironment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """A real Triton with a Python model that answers zeros and an ensemble of it, `chextriev_toy`."""
    with LocalServer(write_toy_repository(tmp_path_factory.mktemp("toy"))) as server:
        yield server
