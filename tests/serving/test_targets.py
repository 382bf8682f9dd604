"""Repositories for NVIDIA's image: Triton itself reads every configuration, though its backends are not here."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from chextriev.bundle import open_bundle
from chextriev.serving.environment import ServerEnvironment
from chextriev.serving.repository import RepositorySettings, build_repository
from chextriev.serving.triton_options import LOOPBACK, free_ports
from tests.export.tiny_bundle import SYSTEM, TinyBundle

ENGINES = ("region_backbone", f"encoder_{SYSTEM}")


@pytest.fixture(scope="module")
def repository(regions_made: TinyBundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("targets") / "models"
    build_repository([open_bundle(regions_made.folder)], out, RepositorySettings(target="onnxruntime"))
    return out


@pytest.fixture(scope="module")
def client(repository: Path, server_env: ServerEnvironment) -> Iterator[Any]:
    """A server of that repository that has loaded nothing yet."""
    port, _, _ = free_ports((0, 0, 0))
    command = [server_env.tritonserver, f"--model-repository={repository}", "--model-control-mode=explicit"]
    command += [f"--backend-directory={server_env.backends}", f"--grpc-address={LOOPBACK}", f"--grpc-port={port}"]
    command += ["--allow-http=false", "--allow-metrics=false", "--strict-readiness=false"]
    command += ["--disable-auto-complete-config", "--backend-config=python,shm-region-prefix-name=chextriev-targets-"]
    options = {"stderr": subprocess.PIPE, "text": True, "env": server_env.variables(), "cwd": repository}
    with subprocess.Popen(command, **options) as process:
        assert process.stderr is not None
        while "Started GRPCInferenceService" not in (line := process.stderr.readline()):
            assert line, "the server ended"
        try:
            with InferenceServerClient(f"{LOOPBACK}:{port}") as opened:
                yield opened
        finally:
            process.terminate()
            process.stderr.read()


@pytest.mark.parametrize("model", ENGINES)
def test_triton_reads_the_configuration_and_misses_the_backend_alone(client: Any, model: str) -> None:
    with pytest.raises(InferenceServerException, match="unable to find backend library for backend 'onnxruntime'"):
        client.load_model(model)


def test_triton_would_say_what_is_wrong_with_a_configuration(client: Any, repository: Path) -> None:
    path = repository / "region_backbone" / "config.pbtxt"
    whole = path.read_text()
    path.write_text(whole + "no_such_field: 1\n")
    try:
        with pytest.raises(InferenceServerException) as caught:
            client.load_model("region_backbone")
    finally:
        path.write_text(whole)
    assert "backend library" not in str(caught.value.message())


def test_the_preprocessing_is_the_same_as_on_a_processor(client: Any) -> None:
    client.load_model("radiograph_preprocess")
    assert client.is_model_ready("radiograph_preprocess")
