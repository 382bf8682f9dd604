"""The entry point of the image starts a real Triton: TLS or nothing, and no administration without the key."""

import os
import re
import runpy
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from chextriev.serving.doctor.attacks import check_canary
from chextriev.serving.doctor.health import ailments, count_failures, ensembles, main
from chextriev.serving.doctor.target import Session
from chextriev.serving.environment import server_environment
from tests.docker.production import DOCKER, OUTSIDE, Production, started
from tests.serving.toy_repository import write_toy_repository

entry = runpy.run_path(str(DOCKER / "entrypoint.py"))
command = entry["command"]
certificates = runpy.run_path(str(DOCKER / "make_certificates.py"))


@pytest.fixture(scope="module")
def mutual(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Production]:
    """A server of the toy ensemble that serves clients with a certificate alone."""
    folder = tmp_path_factory.mktemp("mutual")
    with started(write_toy_repository(folder / "models"), folder, mutual=True) as server:
        yield server


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, str]:
    """What the entry point needs at least."""
    write_toy_repository(tmp_path / "models")
    certificates["main"]([str(tmp_path / "secrets")])
    return {"CHEXTRIEV_MODELS": f"{tmp_path}/models", "CHEXTRIEV_SECRETS": f"{tmp_path}/secrets"}


def options(words: list[str]) -> dict[str, str]:
    """Options of a command line by name; one that stands twice is what it was set to last."""
    return dict(word.removeprefix("--").split("=", maxsplit=1) for word in words[1:])


def test_a_client_with_the_authority_is_answered_over_tls(production: Production) -> None:
    with Session(production.target()) as session:
        assert check_canary(session, ["ath"]).state == "pass"
        assert session.best is session.tls


def test_a_client_without_tls_or_with_another_authority_is_not(production: Production, tmp_path: Path) -> None:
    other = tmp_path / "ca.crt"
    other.write_bytes(certificates["make"](["localhost"])["ca.crt"])
    with Session(production.target(ca=other)) as session:
        assert (session.plain.code, session.tls.code) == ("UNAVAILABLE", "UNAVAILABLE")
        assert not session.reached


def test_the_restricted_interfaces_open_with_the_key_alone(production: Production) -> None:
    import grpc
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    header = f"triton-grpc-protocol-{entry['KEY_HEADER']}"
    credentials = grpc.ssl_channel_credentials((production.secrets / "ca.crt").read_bytes())
    with grpc.secure_channel(f"{OUTSIDE}:{production.ports[0]}", credentials) as channel:
        index = service_pb2_grpc.GRPCInferenceServiceStub(channel).RepositoryIndex
        for metadata in ([], [(header, "wrong")]):
            with pytest.raises(grpc.RpcError, match="restricted"):
                index(service_pb2.RepositoryIndexRequest(), timeout=10, metadata=metadata)
        found = index(service_pb2.RepositoryIndexRequest(), timeout=10, metadata=[(header, production.key)])
    assert "ath" in {model.name for model in found.models}


def test_the_log_holds_no_information_and_no_key(production: Production) -> None:
    log = production.log.read_text()
    assert "Z I " not in log
    assert production.key not in log


def test_mutual_tls_wants_a_certificate_of_the_client(mutual: Production) -> None:
    with Session(mutual.target()) as session:
        assert not session.reached
    own = {"certificate": mutual.secrets / "client.crt", "key": mutual.secrets / "client.key"}
    with Session(mutual.target(**own)) as session:
        assert check_canary(session, ["chextriev_toy"]).state == "pass"


def test_health_notices_a_model_whose_process_died(
    mutual: Production, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("chextriev.serving.doctor.health.COUNT", tmp_path / "count")
    words = [str(mutual.models), "--port", str(mutual.ports[1]), "--timeout", "3", "--end-after", "2"]
    assert main(words) == 0
    assert capsys.readouterr().out == "healthy"
    (stub,) = (child for child, name in children(mutual.process.pid) if "stub" in name)
    os.kill(stub, signal.SIGKILL)
    ended: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda *call: ended.append(call))  # process 1 is not ours outside a container
    assert main(words) == 1
    assert capsys.readouterr().out.startswith("chextriev_toy: ")
    assert ended == []
    assert main(words) == 1
    assert ended == [(1, signal.SIGTERM)]


def test_health_of_a_server_that_never_was_healthy_ends_nothing(tmp_path: Path) -> None:
    assert [count_failures(tmp_path / "count", failed=True) for _ in range(3)] == [0, 0, 0]
    assert [count_failures(tmp_path / "count", failed=failed) for failed in (False, True, True, False, True)] == [
        *(0, 1, 2),
        *(0, 1),
    ]


def test_health_finds_our_ensembles(production: Production, tmp_path: Path) -> None:
    assert ensembles(production.models) == ["ath"]
    assert ailments(tmp_path, 1, timeout_s=1.0) == [f"{tmp_path} holds no ensemble that takes radiographs"]


def test_every_option_is_one_of_triton(settings: dict[str, str]) -> None:
    environment = server_environment()
    done = subprocess.run([environment.tritonserver, "--help"], env=environment.variables(), capture_output=True)
    known = set(re.findall(r"^  --([a-z-]+)", (done.stdout + done.stderr).decode(), re.MULTILINE))
    for change in ({}, {"CHEXTRIEV_MUTUAL_TLS": "1", "CHEXTRIEV_DEVICE": "gpu"}):
        assert set(options(command({**settings, **change}, []))) <= known


def test_defaults_are_closed(settings: dict[str, str]) -> None:
    words = command(settings, ["--log-verbose=1"])
    found = options(words)
    assert words[0] == "/opt/tritonserver/bin/tritonserver"
    assert words[-1] == "--log-verbose=1"
    assert (found["grpc-use-ssl"], found["http-address"], found["model-control-mode"]) == ("true", "127.0.0.1", "none")
    assert "grpc-root-cert" not in found
    assert found["allow-gpu-metrics"] == "false"
    assert options(command({**settings, "CHEXTRIEV_DEVICE": "gpu"}, []))["allow-gpu-metrics"] == "true"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"CHEXTRIEV_DEVICE": "tpu"}, "choose cpu or gpu"),
        ({"CHEXTRIEV_MUTUAL_TLS": "yes"}, "choose 0 or 1"),
        ({"CHEXTRIEV_MODELS": "/nowhere"}, "holds no model"),
        ({"CHEXTRIEV_SECRETS": "/nowhere"}, r"server.crt: No such file.*user \d+"),
    ],
)
def test_it_says_what_is_missing(settings: dict[str, str], change: dict[str, str], reason: str) -> None:
    with pytest.raises(SystemExit, match=reason):
        command({**settings, **change}, [])


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("admin.key", b"short", "32 or more"),
        ("admin.key", b"a,key:with=signs that Triton reads", "32 or more"),
        ("admin.key", b"\n", "empty"),
        ("server.key", b"\xff\xfe", "not text"),
    ],
)
def test_a_secret_that_cannot_be_one_is_refused(
    settings: dict[str, str], name: str, content: bytes, reason: str
) -> None:
    (Path(settings["CHEXTRIEV_SECRETS"]) / name).write_bytes(content)
    with pytest.raises(SystemExit, match=reason):
        command(settings, [])


def test_a_program_that_is_not_there_is_named(settings: dict[str, str]) -> None:
    environment = {**os.environ, **settings, "CHEXTRIEV_TRITON": "/nowhere/tritonserver"}
    done = subprocess.run([sys.executable, DOCKER / "entrypoint.py"], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "/nowhere/tritonserver: No such file or directory\n")


def test_certificates_are_made_once_in_a_folder_of_ones_own(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    certificates["main"]([str(folder), "--name", "triton.example"])
    assert folder.stat().st_mode & 0o077 == 0
    with pytest.raises(SystemExit, match="exists"):
        certificates["main"]([str(folder)])
    (tmp_path / "open").mkdir(mode=0o755)
    with pytest.raises(SystemExit, match="chmod 700"):
        certificates["main"]([str(tmp_path / "open")])


def test_certificates_name_the_server_and_expire() -> None:
    from datetime import UTC, datetime, timedelta

    from cryptography import x509

    files = certificates["make"](["triton.example", "192.0.2.7"], days=30)
    server = x509.load_pem_x509_certificate(files["server.crt"])
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["triton.example"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["192.0.2.7"]
    assert timedelta(days=29) < server.not_valid_after_utc - datetime.now(UTC) < timedelta(days=31)
    server.verify_directly_issued_by(x509.load_pem_x509_certificate(files["ca.crt"]))


def children(parent: int) -> list[tuple[int, str]]:
    """Process id and command line of each child of a process."""
    found = []
    for task in Path(f"/proc/{parent}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            found.append((child, Path(f"/proc/{child}/cmdline").read_bytes().decode()))
    return found
