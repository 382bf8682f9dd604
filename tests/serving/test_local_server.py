"""The local server: a real Triton, ready when it answers."""

from pathlib import Path

import pytest

from chextriev.errors import InvalidSetting
from chextriev.serving.environment import ServerEnvironment
from chextriev.serving.local_server import LocalServer, ServerSettings
from tests.serving.toy_repository import ENSEMBLE, WORKER, write_toy_repository


def test_a_ready_server_answers_a_canary(toy_server: LocalServer) -> None:
    assert toy_server.models == (ENSEMBLE, WORKER)
    assert toy_server.ensembles == (ENSEMBLE,)
    assert toy_server.answers_canary()


def test_a_repository_may_lie_under_a_name_with_spaces(server_env: ServerEnvironment, tmp_path: Path) -> None:
    with LocalServer(write_toy_repository(tmp_path / "of Dr Röntgen's")) as server:
        assert server.answers_canary()


def test_a_repository_without_an_ensemble_is_ready_when_its_models_are(
    server_env: ServerEnvironment, tmp_path: Path
) -> None:
    repository = write_toy_repository(tmp_path / "toy")
    (repository / ENSEMBLE / "config.pbtxt").unlink()
    with LocalServer(repository) as server:
        assert (server.models, server.ensembles) == ((WORKER,), ())


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"grpc_port": 70_000}, "1 to 65535, or 0 for a free one"),
        ({"grpc_port": 8000, "http_port": 8000}, "each is its own"),
        ({"watch_s": 0.0}, "every time is above 0 s"),
        ({"log_bytes": 10}, "log_bytes is at least 1000"),
    ],
)
def test_settings_are_checked(fields: dict[str, float], words: str) -> None:
    with pytest.raises(InvalidSetting, match=words):
        ServerSettings(**fields)  # type: ignore[arg-type]
