"""compose.yaml keeps to its published schema and says what the images and the entry point understand."""

import copy
import json
import re
import runpy
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from chextriev.serving.doctor import health
from tests.docker.production import DOCKER

SCHEMA = json.loads(files("check_jsonschema").joinpath("builtin_schemas/vendor/compose-spec.json").read_text())
SERVERS = ("server-cpu", "server-gpu")
entry = runpy.run_path(str(DOCKER / "entrypoint.py"))


@pytest.fixture
def compose() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    return content


def validate(content: dict[str, Any]) -> None:
    kind = jsonschema.validators.validator_for(SCHEMA)
    kind(SCHEMA).validate(content)


def test_it_keeps_to_the_published_schema(compose: dict[str, Any]) -> None:
    validate(compose)


def test_the_schema_refuses_what_is_misspelt(compose: dict[str, Any]) -> None:
    wrong = copy.deepcopy(compose)
    wrong["services"]["server-cpu"]["read_onyl"] = True
    with pytest.raises(jsonschema.ValidationError, match="read_onyl"):
        validate(wrong)


def test_each_profile_has_one_server_and_its_monitoring(compose: dict[str, Any]) -> None:
    for profile in ("cpu", "gpu"):
        chosen = {name for name, service in compose["services"].items() if profile in service["profiles"]}
        assert chosen == {f"server-{profile}", "prometheus", "grafana"}


def test_every_service_is_hardened_and_pinned(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["mem_limit"]
        assert service["pids_limit"]
        assert service["healthcheck"]["test"][0] == "CMD"
        assert service["logging"]["options"]["max-size"]
        assert re.fullmatch(r"[a-z/-]+:v?\d+(\.\d+)+", service["image"]), name
        assert "privileged" not in service
        assert service.get("network_mode") is None


def test_servers_differ_in_their_device_alone(compose: dict[str, Any]) -> None:
    cpu, gpu = (compose["services"][name] for name in SERVERS)
    differing = {key for key in {*cpu, *gpu} if cpu.get(key) != gpu.get(key)}
    assert differing == {"profiles", "environment", "mem_limit", "ulimits", "deploy"}
    assert gpu["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]
    for server in (cpu, gpu):
        assert server["shm_size"]
        assert server["ulimits"]["core"] == 0
        assert server["volumes"][0]["target"] == "/models"
        assert server["volumes"][0]["read_only"]
        assert server["tmpfs"][0].startswith("/tmp:")


def test_only_grpc_and_grafana_are_published(compose: dict[str, Any]) -> None:
    ports = {name: service.get("ports", []) for name, service in compose["services"].items()}
    assert {name for name, published in ports.items() if published} == {*SERVERS, "grafana"}
    for name in SERVERS:
        assert [port.rpartition(":")[2] for port in ports[name]] == ["8001"]
    assert ports["grafana"][0].startswith("127.0.0.1:")
    assert compose["networks"]["inside"]["internal"]
    assert compose["services"]["prometheus"]["networks"] == ["inside"]


def test_secrets_are_those_that_the_entry_point_reads_and_the_script_makes(compose: dict[str, Any]) -> None:
    made = set(runpy.run_path(str(DOCKER / "make_certificates.py"))["make"](["localhost"]))
    assert set(compose["secrets"]) <= made
    for name, secret in compose["secrets"].items():
        assert secret["file"].endswith(f"/{name}")
    for name in SERVERS:
        assert set(compose["services"][name]["secrets"]) == {"server.crt", "server.key", "ca.crt", "admin.key"}
    ignored = (DOCKER.parent / ".gitignore").read_text().splitlines()
    assert "/docker/secrets/" in ignored


def test_settings_are_those_of_the_entry_point(compose: dict[str, Any]) -> None:
    for name in SERVERS:
        settings = compose["services"][name]["environment"]
        assert all(f"{setting} " in entry["__doc__"] for setting in settings)
        assert settings["CHEXTRIEV_DEVICE"] == name.removeprefix("server-")


def test_the_health_check_is_a_command_of_ours(
    compose: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(health, "COUNT", tmp_path / "count")
    words = compose["services"]["server-cpu"]["healthcheck"]["test"]
    assert words[1:4] == ["python3", "-m", "chextriev.serving.doctor.health"]
    assert health.main([str(tmp_path) if word == "/models" else word for word in words[4:]]) == 1
    assert "holds no ensemble" in capsys.readouterr().out


def test_the_health_check_counts_its_failure_before_it_is_ended(
    compose: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    budgets: list[float] = []
    monkeypatch.setattr(health, "COUNT", tmp_path / "count")
    monkeypatch.setattr(health, "ailments", lambda models, port, timeout_s: budgets.append(timeout_s) or [])
    for name in SERVERS:
        check = compose["services"][name]["healthcheck"]
        health.main(check["test"][4:])
        assert budgets.pop() <= int(check["timeout"].removesuffix("s")) - 5


def test_the_page_publishes_what_it_examines() -> None:
    (block,) = (part for part in (DOCKER / "README.md").read_text().split("```") if "chextriev doctor triton" in part)
    assert block.index("export CHEXTRIEV_ADDRESS=") < block.index("docker compose")


def test_every_mounted_file_is_there(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        for volume in service["volumes"]:
            source = volume.split(":")[0] if isinstance(volume, str) else volume["source"]
            if source.startswith("./"):
                assert (DOCKER / source).exists(), source
                assert volume.endswith(":ro")
