"""The health check tells a server that is busy from one that hangs, and asks all ensembles at once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Barrier, Event, Thread

import pytest

from chextriev.serving.doctor import health
from tests.serving.toy_repository import write_toy_repository

FULL = b'{"error": "in ensemble \'a\', Exceeds maximum queue size"}'
GONE = b'{"error": "Request for unknown model"}'


@contextmanager
def server(status: int, body: bytes, before: Callable[[], object]) -> Iterator[int]:
    """The port of a server that answers this to every inference, after it called `before`."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            before()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        thread = Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield served.server_port
        finally:
            served.shutdown()
            thread.join()


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A repository of two ensembles."""
    folder = write_toy_repository(tmp_path / "models")
    (name,) = health.ensembles(folder)
    second = folder / "second"
    second.mkdir()
    (second / "config.pbtxt").write_text((folder / name / "config.pbtxt").read_text())
    return folder


def test_a_full_queue_is_a_sign_of_life(models: Path) -> None:
    with server(503, FULL, lambda: None) as port:
        assert health.ailments(models, port, timeout_s=30.0) == []
    with server(503, GONE, lambda: None) as port:
        assert [fault.partition(": ")[2] for fault in health.ailments(models, port, timeout_s=30.0)] == [
            "status 503",
            "status 503",
        ]


def test_all_ensembles_are_asked_at_the_same_time(models: Path) -> None:
    both = Barrier(2)
    with server(503, FULL, lambda: both.wait(30)) as port:
        assert health.ailments(models, port, timeout_s=30.0) == []
    assert not both.broken


def test_hanging_ensembles_are_counted(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(health, "COUNT", tmp_path / "count")
    (tmp_path / "count").write_text("0")
    hold = Event()

    def hang() -> None:
        hold.wait(30)

    with server(503, FULL, hang) as port:
        try:
            assert health.main([str(models), "--port", str(port), "--timeout", "0.2", "--end-after", "3"]) == 1
        finally:
            hold.set()
    assert capsys.readouterr().out.count("no answer in time") == 2
    assert (tmp_path / "count").read_text() == "1"
