"""However a server ends, nothing of it is left: no process, no listening port, no shared memory."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from chextriev.cli import main
from chextriev.errors import ServerNotStarted
from chextriev.serving.environment import ServerEnvironment
from chextriev.serving.leftovers import backend_folders, reap_servers
from chextriev.serving.local_server import LocalServer, ServerSettings
from tests.serving.serve_command import ServeCommand, await_end, listening, programs_of, serve_command
from tests.serving.toy_repository import ENSEMBLE, WORKER, write_toy_repository

LOOPBACK = "0100007F"
DEADLINE_S = 60.0
"""How long a failing test waits, on however busy a machine; a passing one does not."""

pytestmark = pytest.mark.usefixtures("server_env")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return write_toy_repository(tmp_path / "toy")


def check_nothing_is_left(command: ServeCommand, programs: list[int], guardian: int) -> None:
    await_end([*programs, guardian], deadline_s=DEADLINE_S)
    assert programs_of(command.repository) == []
    assert not {port for _, port in listening()} & set(command.ports)
    assert command.memory == []


def test_a_signal_stops_it(repository: Path, tmp_path: Path) -> None:
    with serve_command(repository, tmp_path / "state") as command:
        programs, guardian = programs_of(repository), command.guardian
        assert command.ready["event"] == "ready"
        assert command.ready["models"] == [ENSEMBLE, WORKER]
        assert Path(command.ready["log"]).is_relative_to(tmp_path / "state")
        assert len(programs) == 2
        assert len(command.memory) == 1
        assert [Path("/dev/shm", name).stat().st_mode & 0o077 for name in command.memory] == [0]
        assert [path.stat().st_mode & 0o077 for path in (tmp_path / "state", Path(command.ready["log"]))] == [0, 0]
        command.process.send_signal(signal.SIGTERM)
        assert command.next_event() == {"event": "stopped"}
        assert command.process.wait(DEADLINE_S) == 0
        check_nothing_is_left(command, programs, guardian)


def test_it_leaves_no_file_outside_its_state_folder(repository: Path, tmp_path: Path) -> None:
    """Neither beside the models that it loads nor where Triton's Python backend makes a folder."""
    files, folders = sorted(repository.rglob("*")), backend_folders()
    with LocalServer(repository, ServerSettings(state=tmp_path / "state")):
        made = backend_folders() - folders
        assert made
        assert sorted(repository.rglob("*")) == files
    assert not made <= backend_folders()
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == ["server.lock", "server.log"]


def test_a_killed_server_is_waited_for(repository: Path, tmp_path: Path) -> None:
    with serve_command(repository, tmp_path / "state") as command:
        command.process.kill()
        command.process.wait(DEADLINE_S)
        with serve_command(repository, tmp_path / "state") as again:
            assert again.ready["event"] == "ready"


def test_it_listens_on_loopback_alone(toy_server: LocalServer) -> None:
    (triton,) = [process.pid for process in toy_server.processes if process.model is None]
    ports = {int(address.rpartition(":")[2]) for address in (toy_server.grpc, toy_server.http, toy_server.metrics)}
    assert listening(triton) == {(LOOPBACK, port) for port in ports}


def test_nothing_outlives_its_killed_starter(repository: Path, tmp_path: Path) -> None:
    with serve_command(repository, tmp_path / "state") as command:
        programs, guardian = programs_of(repository), command.guardian
        command.process.kill()
        command.process.wait(DEADLINE_S)
        check_nothing_is_left(command, programs, guardian)


def test_the_guardian_cleans_up_after_killed_processes(repository: Path, tmp_path: Path) -> None:
    with serve_command(repository, tmp_path / "state") as command:
        programs, guardian, triton = programs_of(repository), command.guardian, command.triton
        os.kill(command.process.pid, signal.SIGSTOP)  # so that it is the guardian's to do
        for pid in sorted(programs, key=lambda pid: pid == triton):  # a model that outlives Triton tidies up itself
            os.kill(pid, signal.SIGKILL)
        check_nothing_is_left(command, programs, guardian)


def test_a_child_of_the_starter_does_not_keep_it_alive(repository: Path, tmp_path: Path) -> None:
    """A process that was forked from the starter holds its pipe to the guardian open."""
    code = (
        "import os, signal, sys\n"
        "from chextriev.serving.local_server import LocalServer\n"
        f"server = LocalServer({str(repository)!r}).__enter__()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    signal.pause()\n"
        "print(child, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    with subprocess.Popen([sys.executable, "-W", "ignore", "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        try:
            await_end([process.pid, *programs_of(repository)], deadline_s=DEADLINE_S)
            assert programs_of(repository) == []
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_killed_guardian_takes_triton_along_and_both_are_started_again(repository: Path, tmp_path: Path) -> None:
    with serve_command(repository, tmp_path / "state") as command:
        programs, memory, guardian = programs_of(repository), command.memory, command.guardian
        os.kill(guardian, signal.SIGKILL)
        assert [command.next_event()["event"] for _ in range(2)] == ["server ended", "server restarted"]
        await_end(programs, deadline_s=DEADLINE_S)
        assert not set(command.memory) & set(memory)
        assert {port for pid in programs_of(repository) for _, port in listening(pid)} == set(command.ports)
        again, guardian = programs_of(repository), command.guardian
        command.process.terminate()
        assert command.process.wait(DEADLINE_S) == 0
        check_nothing_is_left(command, again, guardian)


def test_what_a_wholly_killed_server_left_is_reaped_at_the_next_start(repository: Path, tmp_path: Path) -> None:
    with serve_command(repository, tmp_path / "state") as command:
        programs, guardian, triton = programs_of(repository), command.guardian, command.triton
        os.kill(command.process.pid, signal.SIGSTOP)  # so that it cannot clean up after the guardian
        os.kill(guardian, signal.SIGKILL)
        await_end([triton], deadline_s=DEADLINE_S)  # by the kernel
        assert command.memory, "nothing was left to reap"  # once it has ended, any server that starts may reap it
        command.process.kill()
        command.process.wait(DEADLINE_S)
        reap_servers()
        check_nothing_is_left(command, programs, guardian)


def test_memory_of_a_living_starter_is_left_alone(toy_server: LocalServer) -> None:
    reap_servers()
    assert toy_server.answers_canary()
    assert all(Path("/dev/shm", str(item.memory)).exists() for item in toy_server.processes if item.model)


def test_two_servers_do_not_share_a_state_folder(repository: Path, tmp_path: Path) -> None:
    with LocalServer(repository, ServerSettings(state=tmp_path / "state")):
        other = LocalServer(repository, ServerSettings(state=tmp_path / "state"))
        with pytest.raises(ServerNotStarted, match=r"another server uses .*state; give this one a state folder"), other:
            pass


def test_a_model_that_cannot_be_loaded_is_named_without_paths(tmp_path: Path) -> None:
    broken = write_toy_repository(tmp_path / "of SECRET", model="import no_such_module\n")
    with pytest.raises(ServerNotStarted) as caught, LocalServer(broken):
        pass
    assert "'toy_worker' version 1: Internal: ModuleNotFoundError: No module named 'no_such_mod" in str(caught.value)
    assert "SECRET" not in str(caught.value)
    assert programs_of(broken) == []


@pytest.mark.parametrize("kind", ["grpc", "http", "metrics"])
def test_a_port_that_is_taken_is_named(repository: Path, toy_server: LocalServer, kind: str) -> None:
    port = int(getattr(toy_server, kind).rpartition(":")[2])
    server = LocalServer(repository, ServerSettings(**{f"{kind}_port": port}))
    with pytest.raises(ServerNotStarted, match=rf"{port}.* already in use"), server:
        pass
    assert toy_server.answers_canary()


def test_what_is_no_repository_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--repository", str(tmp_path), "--state", str(tmp_path / "state")]) == 2
    assert "holds no model; give a model repository" in capsys.readouterr().err
    assert main(["serve"]) == 2
    assert "give either bundles to serve or --repository" in capsys.readouterr().err


def test_the_environment_is_held_while_a_server_runs(server_env: ServerEnvironment, toy_server: LocalServer) -> None:
    """The one that it was started in: of source that is edited while tests run there are several."""
    from chextriev.scratch import locked

    (triton,) = [process.pid for process in toy_server.processes if process.model is None]
    (path,) = re.findall(r"(?:^|\0)PATH=([^:\0]*)", Path(f"/proc/{triton}/environ").read_text())
    source = Path(path).parent
    assert source.parent == server_env.source.parent
    with locked(source) as free:
        assert not free
