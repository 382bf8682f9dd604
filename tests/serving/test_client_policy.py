"""Deadlines, pauses, addresses, certificates and statuses: values, without a server."""

import random
from pathlib import Path

import pytest

from chextriev.errors import (
    DeadlineExpired,
    InvalidSetting,
    MissingFile,
    Overloaded,
    RequestRefused,
    ServerFailed,
    ServerUnavailable,
    ServingError,
    UnknownModel,
    UntrustedServer,
)
from chextriev.serving.client import Connection, Deadline, KeepAlive, RetryPolicy, Tls
from chextriev.serving.client.connection import open_transport, split_address
from chextriev.serving.client.described import FRESH_S, Described
from chextriev.serving.client.retry import MENDING_S, Tries
from chextriev.serving.client.statuses import clean, named, serving_error
from tests.serving.fake_server import FakeServer


class Clock:
    """Seconds, moved by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_countdown_counts_what_is_left() -> None:
    clock = Clock()
    countdown = Deadline(total_s=10, connect_s=3).start(clock)
    assert (countdown.remaining_s(), countdown.connecting_s()) == (10, 3)
    clock.now += 8
    assert (countdown.remaining_s(), countdown.connecting_s()) == (2, 2)
    clock.now += 2
    assert countdown.left_s() == 0
    with pytest.raises(DeadlineExpired, match=r"no answer within 10 s \(total_s\)"):
        countdown.remaining_s()


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_deadlines_are_finite(seconds: float) -> None:
    for settings in ({"total_s": seconds}, {"connect_s": seconds}):
        with pytest.raises(InvalidSetting, match=f"{next(iter(settings))} is .*; a finite number of seconds above 0"):
            Deadline(**settings)


def test_pauses_are_spread_over_the_whole_of_a_growing_range() -> None:
    policy, draw = RetryPolicy(tries=9, first_s=0.1, cap_s=2), random.Random(0)
    assert [policy.longest_pause_s(failures) for failures in (1, 2, 3, 5, 6, 99)] == [0.1, 0.2, 0.4, 1.6, 2, 2]
    for failures in (1, 4, 8):
        longest = policy.longest_pause_s(failures)
        drawn = [policy.pause_s(failures, draw.random) for _ in range(2000)]
        assert 0 <= min(drawn) < 0.01 * longest
        assert 0.99 * longest < max(drawn) < longest
        assert sum(drawn) / len(drawn) == pytest.approx(longest / 2, rel=0.05)


def test_the_last_try_raises_what_it_met() -> None:
    tries, error = Tries(RetryPolicy(tries=2, first_s=0), Deadline().start()), Overloaded("full")
    assert tries.pause_after(error) == 0
    with pytest.raises(Overloaded, match="full"):
        tries.pause_after(error)


def test_a_model_that_is_loaded_anew_is_waited_for() -> None:
    clock, error = Clock(), serving_error("StatusCode.INTERNAL", "Stub process 'b_0_0' is not healthy.", "a:1")
    assert isinstance(error, ServerUnavailable)
    tries = Tries(RetryPolicy(tries=2, first_s=0), Deadline().start(clock))
    for _ in range(7):
        tries.pause_after(error)
        clock.now += 2
    clock.now += MENDING_S
    with pytest.raises(ServerUnavailable, match="ask again in some seconds"):
        tries.pause_after(error)
    with pytest.raises(ServerUnavailable):
        Tries(RetryPolicy(tries=1), Deadline().start(clock)).pause_after(error)


def test_no_pause_reaches_beyond_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    countdown = Deadline(total_s=1).start(clock)
    monkeypatch.setattr(RetryPolicy, "pause_s", lambda policy, failures: 0.5)
    tries = Tries(RetryPolicy(tries=99), countdown)
    assert tries.pause_after(ServerUnavailable("gone")) == 0.5
    clock.now += 0.5
    with pytest.raises(ServerUnavailable, match="gone"):
        tries.pause_after(ServerUnavailable("gone"))


@pytest.mark.parametrize("settings", [{"tries": 0}, {"first_s": -1}, {"cap_s": float("nan")}])
def test_retry_policies_are_checked(settings: dict[str, float]) -> None:
    with pytest.raises(InvalidSetting, match="tries is at least 1"):
        RetryPolicy(**settings)  # type: ignore[arg-type]


def test_descriptions_age() -> None:
    clock, server = Clock(), FakeServer()
    described, model = Described(clock), server.models["chextriev_v6"]
    assert described.get("chextriev_v6") is None
    described.put(model)
    clock.now += FRESH_S - 1
    assert described.get("chextriev_v6") is model
    clock.now += 1
    assert described.get("chextriev_v6") is None
    described.put(model)
    described.forget()
    assert described.get("chextriev_v6") is None


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("radiology:8001", ("grpc", "radiology:8001")),
        ("grpc://[::1]:8001", ("grpc", "[::1]:8001")),
        ("grpcs://radiology:8001/", ("grpcs", "radiology:8001")),
        ("shm://127.0.0.1:8001", ("shm", "127.0.0.1:8001")),
        ("http://radiology:8000/", ("http", "radiology:8000")),
        ("https://proxy/triton/", ("https", "proxy/triton")),
    ],
)
def test_addresses(address: str, found: tuple[str, str]) -> None:
    assert split_address(address, Connection()) == found


@pytest.mark.parametrize(
    "address",
    ["", "radiology", "ftp://a:1", "grpc://a:1?x=1", "grpc://me:secret@a:1", "a:b", "a:99999", "grpc://:8001"],
)
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(InvalidSetting, match="give HOST:PORT of the server's gRPC, or one of grpc://HOST:PORT"):
        split_address(address, Connection())


@pytest.mark.parametrize("scheme", ["http", "shm"])
def test_certificates_where_triton_has_none(scheme: str) -> None:
    with pytest.raises(
        InvalidSetting, match=r"Triton has no TLS on HTTP, .*; use grpc://a:8001, or https:// to a proxy"
    ):
        open_transport(f"{scheme}://a:1", Connection(tls=Tls()))


def test_certificates_are_checked(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="certificate and key belong together"):
        Tls(certificate="a.pem")
    with pytest.raises(MissingFile, match=r"none\.pem: No such file or directory; Tls\(ca=\.\.\.\) is the name of a"):
        open_transport("a:1", Connection(tls=Tls(ca=tmp_path / "none.pem")))
    (tmp_path / "text.pem").write_text("no certificate")
    with pytest.raises(UntrustedServer, match="no certificates in PEM form"):
        open_transport("https://a", Connection(tls=Tls(ca=tmp_path / "text.pem")))


def test_connections_are_checked() -> None:
    with pytest.raises(InvalidSetting, match="sockets is 0"):
        Connection(sockets=0)
    with pytest.raises(InvalidSetting, match="time_s is 0"):
        KeepAlive(time_s=0)


@pytest.mark.parametrize(
    ("status", "words", "kind"),
    [
        ("StatusCode.INVALID_ARGUMENT", "EmptyBox: image 0: ...", RequestRefused),
        ("400", "unexpected inference input 'box'", RequestRefused),
        ("StatusCode.NOT_FOUND", "Request for unknown model: 'a' is not found", UnknownModel),
        ("404", "Request for unknown model: 'a' is not found", UnknownModel),
        ("StatusCode.UNAVAILABLE", "[request id: 1] Exceeds maximum queue size", Overloaded),
        ("503", "in ensemble 'a', Exceeds maximum queue size", Overloaded),
        ("StatusCode.UNAVAILABLE", "Request timeout expired", DeadlineExpired),
        ("StatusCode.UNAVAILABLE", "failed to connect to all addresses; Connection refused", ServerUnavailable),
        ("StatusCode.UNAVAILABLE", "Ssl handshake failed: CERTIFICATE_VERIFY_FAILED", UntrustedServer),
        ("StatusCode.UNAVAILABLE", "This protocol is restricted, expecting header 'a'", RequestRefused),
        ("StatusCode.DEADLINE_EXCEEDED", "Deadline Exceeded", DeadlineExpired),
        ("StatusCode.INTERNAL", "in ensemble 'a', Stub process 'b_0_0' is not healthy.", ServerUnavailable),
        ("500", "Stub process 'b_0_0' is not healthy.", ServerUnavailable),
        ("StatusCode.NOT_FOUND", "Request for unknown model: 'b' has no available versions", ServerUnavailable),
        ("404", "Request for unknown model: 'b' has no available versions", ServerUnavailable),
        ("StatusCode.INTERNAL", "another fault", ServerFailed),
        ("500", "oops", ServerFailed),
        ("StatusCode.UNKNOWN", "a certificate is mentioned", ServerFailed),
        (None, None, ServerFailed),
    ],
)
def test_statuses(status: str | None, words: str | None, kind: type[ServingError]) -> None:
    error = serving_error(status, words, "radiology:8001")
    assert type(error) is kind
    assert str(error).startswith("radiology:8001: ")


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ("in ensemble 'chextriev_v6', EmptyBox: image 0: no area", "EmptyBox: image 0: no area"),
        (
            "in ensemble 'a', Failed to process the request(s) for model 'b', message: ValueError: x\n\nAt:\n  /a/b.py",
            "ValueError: x",
        ),
        ('Traceback (most recent call last):\n  File "/a/b.py"', "an exception"),
        ("cannot open /opt/tritonserver/models/a.onnx, sorry", "cannot open (a path), sorry"),
        ("fluid overload/heart failure", "fluid overload/heart failure"),
        ("x" * 999, "x" * 400 + " ..."),
        (None, ""),
    ],
)
def test_words_of_the_server(said: str | None, left: str) -> None:
    assert clean(said) == left


def test_an_error_is_named_once() -> None:
    error = named(ServerFailed("oops"), "1a", ["a"])
    assert (str(error), error.request) == ("oops (request 1a, image a)", "1a")
    assert named(error, "2b", ["b"]) is error
    assert str(named(ServerFailed("oops"), None)) == "oops"
