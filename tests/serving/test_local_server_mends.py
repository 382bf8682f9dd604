"""What breaks while a server runs is mended, and its log holds nothing of a patient."""

import http.client
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Event

import numpy as np
import pytest

from chextriev.errors import Overloaded
from chextriev.optional import require
from chextriev.serving.canary import ServerControl
from chextriev.serving.leftovers import ServerProcess
from chextriev.serving.local_server import LocalServer, ServerSettings
from chextriev.serving.supervisor import FAILURES, FULL_S, ServerEvent, Supervisor
from tests.serving.toy_repository import ENSEMBLE, WORKER, write_toy_repository

DEADLINE_S = 60.0
"""How long a failing test waits, on however busy a machine; a passing one does not."""
SECRET = "p10046166-Meier"

pytestmark = pytest.mark.usefixtures("server_env")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """A server that these tests break, one after the other."""
    folder = tmp_path_factory.mktemp("mended")
    settings = ServerSettings(state=folder / "state", log_bytes=1_000, log_files=3, watch_s=0.2)
    with LocalServer(write_toy_repository(folder / "toy"), settings) as server:
        yield server


def triton_and_stub(server: LocalServer) -> tuple[ServerProcess, ServerProcess]:
    (triton,) = [process for process in server.processes if process.model is None]
    (stub,) = [process for process in server.processes if process.model == WORKER]
    return triton, stub


def next_events(server: LocalServer, seen: int, count: int) -> list[str]:
    found = [server.wait_event(seen + number, DEADLINE_S) for number in range(count)]
    return [event.kind for event in found if event is not None]


def test_a_dead_model_is_loaded_anew_without_restarting_triton(server: LocalServer) -> None:
    seen, (triton, stub) = len(server.events), triton_and_stub(server)
    os.kill(stub.pid, signal.SIGKILL)
    assert next_events(server, seen, 2) == ["model died", "model reloaded"]
    assert server.answers_canary()
    again, another = triton_and_stub(server)
    assert again == triton
    assert another.pid != stub.pid
    assert not Path("/dev/shm", str(stub.memory)).exists()
    assert server.events[seen + 1].at - server.events[seen].at < DEADLINE_S


def test_a_model_that_dies_within_an_inference_is_loaded_anew(tmp_path: Path) -> None:
    """Triton never finishes to unload it: the process died with locks in the memory that both share."""
    grpc = require("tritonclient.grpc", extra="serve")
    repository = write_toy_repository(tmp_path / "toy", instances=2)
    with LocalServer(repository, ServerSettings(watch_s=0.2)) as server:
        former = {process for process in server.processes if process.model}
        for process in former:
            os.kill(process.pid, signal.SIGSTOP)
        with grpc.InferenceServerClient(server.grpc) as client:
            waiting = [client.async_infer(ENSEMBLE, inputs(grpc), lambda result, error: None) for _ in range(4)]
            os.kill(next(iter(former)).pid, signal.SIGKILL)
            assert next_events(server, 0, 3) == ["ready", "model died", "model reloaded"]
            for call in waiting:
                call.cancel()
        assert server.answers_canary()
        latter = {process for process in server.processes if process.model}
        assert len(latter) == 2
        assert not former & latter
        assert not [item for item in former if Path("/dev/shm", str(item.memory)).exists()]


def test_nested_json_kills_triton_and_it_is_started_again(server: LocalServer) -> None:
    """The known fault of this build: a body of 200,000 opening brackets overflows its stack."""
    seen, addresses, (triton, _) = (
        len(server.events),
        (server.grpc, server.http, server.metrics),
        triton_and_stub(server),
    )
    connection = http.client.HTTPConnection(server.http, timeout=DEADLINE_S)
    with suppress(http.client.RemoteDisconnected, ConnectionError):
        connection.request("POST", f"/v2/models/{ENSEMBLE}/infer", "[" * 200_000)
        connection.getresponse()
    connection.close()
    assert next_events(server, seen, 2) == ["server ended", "server restarted"]
    assert (server.grpc, server.http, server.metrics) == addresses
    assert triton_and_stub(server)[0].pid != triton.pid
    assert server.answers_canary()


def test_a_model_that_is_unloaded_on_purpose_stays_so(server: LocalServer) -> None:
    seen, control = len(server.events), ServerControl(server.grpc, server.admin)
    control.unload(WORKER)
    assert not server.answers_canary() or control.ensembles() == []
    control.load(WORKER, timeout_s=DEADLINE_S)
    assert server.answers_canary()
    assert server.events[seen:] == ()


def test_strangers_do_not_load_models(server: LocalServer) -> None:
    grpc = require("tritonclient.grpc", extra="serve")
    utils = require("tritonclient.utils", extra="serve")
    with grpc.InferenceServerClient(server.grpc) as client, pytest.raises(utils.InferenceServerException) as caught:
        client.load_model(WORKER)
    assert "restricted" in str(caught.value)
    connection = http.client.HTTPConnection(server.http, timeout=DEADLINE_S)
    connection.request("POST", f"/v2/repository/models/{WORKER}/load", "{}")
    assert connection.getresponse().status == 403
    connection.close()


def test_a_server_that_hangs_is_started_again(tmp_path: Path) -> None:
    settings = ServerSettings(watch_s=0.05, canary_s=0.05, canary_timeout_s=0.5)
    with LocalServer(write_toy_repository(tmp_path / "toy"), settings) as server:
        _, stub = triton_and_stub(server)
        os.kill(stub.pid, signal.SIGSTOP)
        kinds: list[str] = []
        while "server restarted" not in kinds:
            kinds += next_events(server, len(kinds), 1) or pytest.fail(f"nothing happened after {kinds}")
        # A canary may also have been late before, on a busy machine.
        assert kinds[-FAILURES - 2 :] == [*["canary failed"] * FAILURES, "server hangs", "server restarted"]
        assert server.answers_canary()


class FullServer:
    """A server whose queue stays full, as its supervisor sees it; `control` is its own, and answers for a test."""

    def __init__(self) -> None:
        self.kinds: list[str] = []

    @property
    def control(self) -> "FullServer":
        return self

    def answered(self) -> int:
        return 0

    def check_canary(self, *, timeout_s: float) -> None:
        raise Overloaded("Exceeds maximum queue size")

    def ended(self) -> bool:
        return False

    def processes(self) -> list[ServerProcess]:
        return []

    def restart(self) -> None:
        self.kinds.append("restart")

    def record(self, kind: str, text: str, detail: str = "") -> None:
        self.kinds.append(kind)


def test_a_full_queue_is_no_failure_unless_nothing_is_answered_for_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    server = FullServer()
    supervisor = Supervisor(server, ServerSettings(canary_s=1.0))  # type: ignore[arg-type]
    for _ in range(3 * FAILURES):
        now += 2.0
        supervisor.look()
    assert server.kinds == []
    now += FULL_S
    supervisor.look()
    assert server.kinds == ["server hangs", "restart", "server restarted"]


def test_a_full_queue_is_told_from_a_server_that_fails(tmp_path: Path) -> None:
    grpc = require("tritonclient.grpc", extra="serve")
    repository = write_toy_repository(tmp_path / "toy", queue=1)
    with LocalServer(repository, ServerSettings(watch_s=60.0)) as server:
        _, stub = triton_and_stub(server)
        os.kill(stub.pid, signal.SIGSTOP)
        full = Event()  # the model is stopped: what comes back was refused
        with grpc.InferenceServerClient(server.grpc) as client:
            waiting = [client.async_infer(ENSEMBLE, inputs(grpc), lambda result, error: full.set()) for _ in range(4)]
            assert full.wait(DEADLINE_S)
            with pytest.raises(Overloaded, match="maximum queue size"):
                ServerControl(server.grpc, server.admin).check_canary(timeout_s=DEADLINE_S)
            for call in waiting:
                call.cancel()
        os.kill(stub.pid, signal.SIGCONT)


def inputs(grpc: object, image: bytes = b"") -> list[object]:
    tensors = {"image": np.array([[image]], np.object_), "boxes": np.zeros((1, 18, 4), np.float32)}
    found = []
    for (name, tensor), kind in zip(tensors.items(), ("BYTES", "FP32"), strict=True):
        found.append(grpc.InferInput(name, list(tensor.shape), kind))  # type: ignore[attr-defined]
        found[-1].set_data_from_numpy(tensor)
    return found


def test_the_log_rotates_and_holds_nothing_of_a_request(server: LocalServer) -> None:
    grpc = require("tritonclient.grpc", extra="serve")
    utils = require("tritonclient.utils", extra="serve")
    with grpc.InferenceServerClient(server.grpc) as client:
        client.update_log_settings({"log_verbose_level": 1}, headers=server.admin)  # Triton now logs every request id
        client.infer(ENSEMBLE, inputs(grpc, SECRET.encode()), request_id=SECRET)
        with pytest.raises(utils.InferenceServerException):
            client.infer(SECRET, inputs(grpc), request_id=SECRET)
        for _ in range(30):  # each is an error in Triton's log, which repeats the name
            with pytest.raises(utils.InferenceServerException):
                client.load_model(SECRET, headers=server.admin)
    files = list(server.log.parent.glob("server.log*"))
    assert {path.name for path in files} >= {"server.log", "server.log.1"}
    assert len(files) <= 4
    kept = {path: path.read_bytes() for path in files}
    assert all(len(content) <= 1_000 for content in kept.values())
    assert b"(text withheld)" in kept[server.log]
    for word in (SECRET.encode(), b"p10046166", b"Meier", str(server.repository).encode()):
        assert not [path for path, content in kept.items() if word in content]


def test_events_are_lines_of_the_log(tmp_path: Path) -> None:
    with LocalServer(write_toy_repository(tmp_path / "toy"), ServerSettings(state=tmp_path / "state")) as server:
        assert [event.kind for event in server.events] == ["ready"]
        assert isinstance(server.events[0], ServerEvent)
    text = server.log.read_text()
    assert " N ready: every ensemble answers\n" in text
    assert text.endswith(" N server ended with status 0\n")
