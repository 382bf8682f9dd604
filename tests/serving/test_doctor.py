"""The doctor finds what is open, and nothing where all is closed; every request of it ends."""

import io
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

import numpy as np
import pytest
from PIL import Image

from chextriev.cli import main
from chextriev.errors import InvalidSetting, MissingFile
from chextriev.serving.doctor.attacks import BOMB_SIDE, check_canary, png_bomb
from chextriev.serving.doctor.examine import examine
from chextriev.serving.doctor.plain_http import http_request
from chextriev.serving.doctor.target import Session, Target, shorten
from chextriev.serving.doctor.versions import HOLES, open_holes, read_version
from chextriev.serving.environment import server_environment
from chextriev.serving.triton_options import free_ports, model_names, triton_command
from tests.docker.production import Production, await_health
from tests.serving.toy_repository import write_toy_repository

HOST = "127.0.0.1"
QUICK_S = 0.4
TALKATIVE = """
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        images = pb_utils.get_input_tensor_by_name(request, "image").as_numpy()
        if images[0, 0][:2] != b"P5":
            raise ValueError("what is this?")
        return pb_utils.InferenceResponse([pb_utils.Tensor("embedding", np.zeros((len(images), 4), np.float32))])
"""
"""A model as they often are: what it cannot read ends in a traceback, and that goes to the client."""
CLOSED_BY_KEY = {
    "the list of models is closed",
    "models cannot be loaded",
    "models cannot be unloaded",
    "shared memory is closed",
    "CUDA shared memory is closed",
    "statistics are closed",
    "trace settings are closed",
    "log settings are closed",
}
BOMB = "an image bomb of 30,000 x 30,000 pixels is refused"
NESTING = "nested JSON leaves the server alive"
GIANT = "a message of 96 MB is refused"
OPEN = CLOSED_BY_KEY | {
    "gRPC is closed without TLS",
    "HTTP is out of reach",
    "metrics are out of reach",
    "server is recent",
    "queues are limited",
    "a terabyte over HTTP is refused",
    "refusals give nothing away",
    BOMB,
    GIANT,
}


@contextmanager
def open_server(folder: Path) -> Iterator[Target]:
    """A Triton as its defaults are, with models controlled by anybody and one that tells too much."""
    environment, ports = server_environment(), free_ports((0, 0, 0))
    models, log = write_toy_repository(folder / "models", model=TALKATIVE), folder / "triton.log"
    command = triton_command(environment, models, model_names(models), ports=ports, key="none")
    command = [word for word in command if "restricted" not in word and "exit-timeout" not in word]
    with environment.held(), log.open("wb") as stream:
        process = subprocess.Popen(
            [*command, "--exit-timeout-secs=1"], env=environment.variables(), stdout=stream, stderr=stream, cwd=folder
        )
        try:
            await_health(process, models, ports[1], log)
            yield Target(HOST, *ports, system="toy")
        finally:
            process.terminate()
            process.wait(20)


@pytest.fixture(scope="module")
def wide_open(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with open_server(tmp_path_factory.mktemp("open")) as target:
        yield target


def states(target: Target) -> dict[str, str]:
    """Check -> state."""
    return {outcome.check: outcome.state for outcome in examine(target)}


def test_everything_open_is_found_open(wide_open: Target) -> None:
    outcomes = {outcome.check: outcome for outcome in examine(wide_open)}
    assert {check for check, outcome in outcomes.items() if outcome.state == "fail"} == OPEN
    assert {outcome.state for check, outcome in outcomes.items() if check not in OPEN} == {"pass"}
    assert NESTING not in outcomes
    assert all(outcome.cure for check, outcome in outcomes.items() if check in OPEN)
    assert "HTTP" in outcomes["shared memory is closed"].seen
    assert "traceback" in outcomes["refusals give nothing away"].seen
    assert "written" in outcomes["log settings are closed"].seen


def test_what_ends_an_old_server_is_sent_on_demand_alone(tmp_path: Path) -> None:
    with open_server(tmp_path) as target:
        outcomes = {outcome.check: outcome for outcome in examine(target, destructive=True)}
    assert {check for check, outcome in outcomes.items() if outcome.state == "fail"} == OPEN | {NESTING}
    assert outcomes[NESTING].seen == "it is dead"
    assert "2.69" in outcomes[NESTING].cure


def test_nothing_of_the_examination_stays(wide_open: Target) -> None:
    answers = []
    for path in ("/v2/systemsharedmemory/status", "/v2/cudasharedmemory/status", "/v2/logging", "/v2/trace/setting"):
        answer = http_request((HOST, wide_open.http_port), f"GET {path}", b"", {}, timeout_s=10.0)
        answers.append(json.loads(answer.text))
    regions, gpu_regions, log, trace = answers
    assert (regions, gpu_regions) == ([], [])
    assert log["log_verbose_level"] == 0
    assert trace["trace_level"] == ["OFF"]


def test_a_locked_deployment_passes_all_but_its_age(production: Production) -> None:
    outcomes = {outcome.check: outcome for outcome in examine(production.target())}
    failed = {check: outcome for check, outcome in outcomes.items() if outcome.state != "pass"}
    assert set(failed) == {"server is recent"}  # the server that comes as a package is of 2024
    assert set(outcomes) >= OPEN
    assert "restricted" in outcomes["shared memory is closed"].seen
    assert "UnreadableImage" in outcomes[BOMB].seen
    assert "UnreadableImage" in outcomes[GIANT].seen


def test_without_the_authority_it_says_what_to_give(production: Production) -> None:
    outcomes = {outcome.check: outcome for outcome in examine(production.target(ca=None))}
    assert outcomes["gRPC answers"].state == "fail"
    assert "--ca" in outcomes["gRPC answers"].cure
    assert outcomes["a radiograph is encoded"].state == "cannot tell"


def test_an_encoder_that_is_not_served_fails(production: Production) -> None:
    with Session(production.target()) as session:
        assert check_canary(session, ["chextriev_v0"]).state == "fail"
        assert check_canary(session, []).state == "fail"


def test_without_an_encoder_of_ours_just_that_is_said(wide_open: Target) -> None:
    outcomes = {outcome.check: outcome for outcome in examine(replace(wide_open, system="v6"))}
    served = outcomes["a radiograph is encoded"]
    assert (served.state, served.seen) == ("fail", "no encoder of ours is served")
    for check in ("queues are limited", "batches are limited", "bombs and giants are refused"):
        assert (outcomes[check].seen, outcomes[check].cure) == ("no encoder of ours is served", "")


def test_where_nothing_listens_nothing_is_claimed() -> None:
    found = states(Target(HOST, *free_ports((0, 0, 0)), timeout_s=QUICK_S))
    assert found["gRPC answers"] == "fail"
    assert {found[check] for check in (CLOSED_BY_KEY | {"gRPC is closed without TLS"})} == {"cannot tell"}


def test_a_web_server_is_not_taken_for_triton() -> None:
    with web_server() as port:
        outcomes = {item.check: item for item in examine(Target(HOST, port, port, port, timeout_s=5.0))}
    assert outcomes["gRPC answers"].state == "fail"
    assert outcomes["HTTP is out of reach"].state == "fail"
    assert {outcomes[check].state for check in CLOSED_BY_KEY} == {"cannot tell"}
    assert outcomes["server is recent"].state == "cannot tell"


def test_a_server_that_never_answers_is_left_in_time() -> None:
    with socket.create_server((HOST, 0)) as silent:
        port = silent.getsockname()[1]
        started = time.monotonic()
        found = states(Target(HOST, port, port, port, timeout_s=QUICK_S))
    assert time.monotonic() - started < 20 * QUICK_S
    assert found["gRPC answers"] == "fail"
    assert found["HTTP is out of reach"] == "fail"


def test_a_server_that_sends_a_byte_now_and_then_is_left_in_time() -> None:
    with socket.create_server((HOST, 0)) as drip:
        stop = Event()
        thread = Thread(target=dribble, args=(drip, stop))
        thread.start()
        try:
            answer = http_request((HOST, drip.getsockname()[1]), "GET /", b"", {}, timeout_s=QUICK_S)
        finally:
            stop.set()
            thread.join(5)
    assert (answer.status, answer.waits) == (0, True)


def dribble(listening: socket.socket, stop: Event) -> None:
    connected, _ = listening.accept()
    with connected:
        while not stop.wait(QUICK_S / 8):
            try:
                connected.send(b"H")
            except OSError:
                return


@contextmanager
def web_server() -> Iterator[int]:
    """An HTTP server that says yes to everything."""

    class Yes(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        do_POST = do_GET  # noqa: N815 - the name that the base class wants

        def log_message(self, format: str, *words: object) -> None:
            return

    with ThreadingHTTPServer((HOST, 0), Yes) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join(5)


def test_the_command_prints_a_line_a_check_and_fails_if_one_does(
    production: Production, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = production.target()
    ports = ("--grpc-port", target.grpc_port, "--http-port", target.http_port, "--metrics-port", target.metrics_port)
    words = ["doctor", target.host, *map(str, ports), "--ca", str(target.ca)]
    assert main(words) == 2
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("pass         gRPC answers: 127.0.0.2:")
    assert lines[-1] == f"{len(lines) - 2} pass, 1 fail, 0 cannot tell"
    monkeypatch.setattr("chextriev.serving.doctor.doors.open_holes", lambda version: [])  # no recent server is at hand
    assert main([*words, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert (content["pass"], content["fail"], content["cannot tell"]) == (len(lines) - 1, 0, 0)
    assert {"check", "state", "seen", "cure"} == set(content["checks"][0])


def test_the_bomb_is_a_correct_png() -> None:
    side = 1_100  # more than one block
    with Image.open(io.BytesIO(png_bomb(side))) as image:
        pixels = np.asarray(image)
    assert pixels.shape == (side, side)
    assert not pixels.any()
    assert len(png_bomb(BOMB_SIDE)) < 2_000_000


@pytest.mark.parametrize(("text", "version"), [("2.51.0", (2, 51)), ("2.75", (2, 75)), ("2", None), ("2.x", None)])
def test_versions_are_read(text: str, version: tuple[int, int] | None) -> None:
    assert read_version(text) == version


def test_holes_are_told_by_version() -> None:
    assert open_holes((2, 75)) == []
    assert open_holes((2, 70)) == [HOLES[-1]]
    assert len(open_holes((2, 51))) == len(HOLES)
    assert [hole.fixed for hole in HOLES] == sorted(hole.fixed for hole in HOLES)
    assert [hole.release for hole in HOLES] == sorted(hole.release for hole in HOLES)


@pytest.mark.parametrize(
    "wrong",
    [
        {"host": "https://triton.example"},
        {"host": ""},
        {"grpc_port": 0},
        {"metrics_port": 70_000},
        {"certificate": Path("client.crt")},
        {"timeout_s": 0.0},
    ],
)
def test_targets_that_cannot_be_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidSetting):
        replace(Target(HOST), **wrong)  # type: ignore[arg-type]


def test_certificates_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match="PEM"):
        states(Target(HOST, ca=tmp_path / "ca.crt"))
    (tmp_path / "ca.crt").write_text("no certificate")
    with pytest.raises(InvalidSetting, match="not a PEM file"):
        states(Target(HOST, ca=tmp_path / "ca.crt"))


def test_a_servers_words_stay_on_a_short_line() -> None:
    assert shorten("a\x1b[2Jb\nc") == "a [2Jb c"
    assert len(shorten("x" * 1000)) == 160
