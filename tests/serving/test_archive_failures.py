"""An archive that is away, slow, hostile or none, and settings that would send patient data astray."""

import gc
import json
import logging
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from chextriev.errors import (
    DeadlineExpired,
    InvalidSetting,
    MissingFile,
    RequestRefused,
    ServerFailed,
    ServerUnavailable,
    ServingError,
    UntrustedServer,
)
from chextriev.serving.archive import ArchiveSettings, Candidate, Credentials, DicomWebArchive

PATIENT = "Planted-0815"
IMAGE = Candidate("1.2.3", "1.2.4", "1.2.5", "DX")
Answer = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def answering(answer: Answer) -> Iterator[str]:
    """The address of a server whose every answer to GET is this one."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.close_connection = True
            try:
                answer(self)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True  # the client had enough

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/dicom-web"
        finally:
            server.shutdown()
            thread.join()


def body(status: int, content: bytes = b"", **headers: str) -> Answer:
    def send(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(content)), "Connection": "close", **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(content)

    return send


def endless(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", 'multipart/related; type="application/dicom"; boundary=x')
    handler.end_headers()
    while True:
        handler.wfile.write(b"\0" * 65536)


def ask(url: str, **limits: float) -> str:
    """The message of the error that asking ends with; of both questions."""
    settings = ArchiveSettings(url, **limits)  # type: ignore[arg-type]
    with DicomWebArchive(settings, Credentials(token="secret-token")) as archive:
        with pytest.raises(ServingError) as found:
            archive.find(patient_id=PATIENT)
        with pytest.raises(ServingError) as fetched:
            archive.fetch(IMAGE)
    assert type(found.value) is type(fetched.value)
    text = f"{found.value} {fetched.value}"
    assert not any(secret in text for secret in (PATIENT, "1.2.5", "secret-token", "127.0.0.1"))
    assert found.value.__suppress_context__ or found.value.__context__ is None
    return f"{type(found.value).__name__}: {found.value}"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (body(200, b"<html>Planted-0815</html>", Content_Type="text/html"), ServerFailed),
        (body(200, b"[{]", Content_Type="application/dicom+json"), ServerFailed),
        (body(200, b'[{"0020000D": 5}]', Content_Type="application/dicom+json"), ServerFailed),
        (body(200, b"[{}]", Content_Type="application/dicom+json"), ServerFailed),
        (body(200, b"[" * 200_000, Content_Type="application/dicom+json"), ServerFailed),
        (body(400, b"bad Planted-0815"), RequestRefused),
        (body(401), RequestRefused),
        (body(404), RequestRefused),
        (body(500, b"Planted-0815"), ServerFailed),
        (body(503), ServerUnavailable),
        (body(302, Location="http://example.org/dicom-web"), UntrustedServer),
        (body(302, Location="//localhost/dicom-web"), UntrustedServer),
    ],
)
def test_other_answers_are_said_without_identifiers(answer: Answer, expected: type[ServingError]) -> None:
    with answering(answer) as url:
        assert ask(url).startswith(expected.__name__)


def test_an_endless_answer_ends_at_the_limit() -> None:
    with answering(endless) as url:
        assert "larger than allowed" in ask(url, max_bytes=300_000)


def test_a_redirect_that_never_ends_is_left() -> None:
    with answering(lambda handler: body(302, Location=handler.path)(handler)) as url:
        assert ask(url).startswith("ServerFailed")


def test_a_silent_archive_is_left_in_time() -> None:
    answered = threading.Event()
    with answering(lambda _: (answered.wait(30), None)[1]) as url:
        try:
            assert ask(url, answer_timeout_s=0.2).startswith(DeadlineExpired.__name__)
        finally:
            answered.set()


@pytest.mark.parametrize("header", [b"Content-Length: 1000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n3e8\r\n"])
def test_an_answer_in_drops_is_left_in_time(header: bytes) -> None:
    """Each drop comes in time, the whole of them does not."""
    left = threading.Event()
    sent: list[int] = []

    def drops(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/dicom+json\r\n" + header)
        while len(sent) < 1000:
            handler.wfile.write(b" ")
            sent.append(1)
            if left.wait(0.02):
                return

    with answering(drops) as url, DicomWebArchive(ArchiveSettings(url, answer_timeout_s=0.3), Credentials()) as archive:
        with pytest.raises(DeadlineExpired):
            archive.find(patient_id=PATIENT)
        left.set()
    assert len(sent) < 1000


def test_images_of_another_patient_are_not_taken() -> None:
    row = {"0020000D": "1.2", "0020000E": "1.3", "00080018": "1.4", "00100020": "B", "00080050": "C"}
    content = json.dumps([{tag: {"vr": "UI", "Value": [value]} for tag, value in row.items()}]).encode()
    answer = body(200, content, Content_Type="application/dicom+json")
    with answering(answer) as url, DicomWebArchive(url, Credentials()) as archive:
        assert len(archive.find(study_uid="1.2", patient_id="B", accession_number="C")) == 1
        for asked in ({"study_uid": "1.9"}, {"patient_id": PATIENT}, {"accession_number": PATIENT}):
            with pytest.raises(ServerFailed, match="not asked for") as caught:
                archive.find(**asked)
            assert PATIENT not in str(caught.value)


def test_odd_headers_are_not_logged_with_the_address(caplog: pytest.LogCaptureFixture) -> None:
    def odd(handler: BaseHTTPRequestHandler) -> None:
        head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: application/dicom+json\r\n"
        handler.wfile.write(head + b": odd\r\nContent-Length: 2\r\n\r\n[]")

    caplog.set_level(logging.DEBUG)
    with answering(odd) as url, DicomWebArchive(url, Credentials()) as archive:
        assert archive.find(patient_id=PATIENT) == ()
    assert PATIENT not in caplog.text


def test_a_way_elsewhere_that_is_not_taken_leaves_no_connection_open() -> None:
    """What is left open says so when it is collected, which is an error of the test that runs then."""
    with answering(body(302, Location="http://example.org/dicom-web")) as url:
        assert ask(url).startswith(UntrustedServer.__name__)
        gc.collect()


def test_nobody_there_is_said() -> None:
    with answering(body(200)) as url:
        pass
    assert "no archive answers" in ask(url)


def test_an_unknown_certificate_is_not_trusted() -> None:
    """The other end speaks no TLS at all, which is no certificate either."""
    with answering(body(200)) as url:
        assert ask(url.replace("http:", "https:")).startswith(UntrustedServer.__name__)
    with DicomWebArchive(ArchiveSettings("https://localhost/dicom-web"), Credentials()) as archive:
        assert archive._session.verify is True
        assert not archive._session.trust_env
    assert ssl.create_default_context().check_hostname


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("pacs.example/dicom-web", "address is none"),
        ("file:///etc/passwd", "address is none"),
        ("https://", "address is none"),
        ("https://host:port/", "address is none"),
        ("https://user:word@pacs.example/", "holds a user"),
        ("https://pacs.example/dicom-web?PatientID=1", "ends before"),
        ("http://pacs.example/dicom-web", "in the clear"),
        ("http://localhost.evil.example/dicom-web", "in the clear"),
    ],
)
def test_an_address_that_would_send_patient_data_astray_is_refused(url: str, reason: str) -> None:
    with pytest.raises(InvalidSetting, match=reason) as caught:
        ArchiveSettings(url)
    assert "word" not in str(caught.value)


def test_certificates_that_are_not_there_are_said() -> None:
    with pytest.raises(MissingFile, match=r"absent\.pem: no such file"):
        ArchiveSettings("https://pacs.example/dicom-web", ca_file="absent.pem")


def test_http_inside_a_hospital_is_allowed_by_word() -> None:
    assert ArchiveSettings("http://pacs.example/dicom-web", allow_http=True).allow_http


@pytest.mark.parametrize("given", [{"user": "a"}, {"password": "b"}, {"token": "t", "user": "a", "password": "b"}])
def test_halves_of_credentials_are_refused(given: dict[str, str]) -> None:
    with pytest.raises(InvalidSetting):
        Credentials(**given)


def test_credentials_come_from_the_environment_and_are_shown_nowhere() -> None:
    assert Credentials.from_environment({"CHEXTRIEV_DICOMWEB_TOKEN": "t0ken"}).token == "t0ken"
    assert not Credentials.from_environment({"CHEXTRIEV_DICOMWEB_TOKEN": ""})
    assert "s3cret" not in repr(Credentials(user="a", password="s3cret"))
    with pytest.raises(InvalidSetting, match="line break"):
        Credentials(token="a\r\nX-Other: b")
