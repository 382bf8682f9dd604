"""A picture archive of our own: Orthanc from Debian's packages, on loopback, with its DICOMweb plugin."""

import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PROGRAM = Path("/usr/sbin/Orthanc")
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
USER, PASSWORD = "reader", "päss:wörd"
_ATTEMPTS = 3  # another program may take the port between our look and Orthanc's start


@contextmanager
def running_orthanc(folder: Path, *, password: bool = False) -> Iterator[str]:
    """The DICOMweb address of an empty archive; the test is skipped where Orthanc is not installed."""
    if not PROGRAM.exists() or not PLUGIN.exists():
        pytest.skip("Orthanc is not installed; run: make system-deps")
    for attempt in range(_ATTEMPTS):
        port = _free_port()
        process = _start(folder / str(attempt), port, password)
        try:
            if _is_ready(process):
                yield f"http://127.0.0.1:{port}/dicom-web"
                return
        finally:
            process.terminate()
            process.communicate(timeout=60)
    pytest.fail("Orthanc did not start")


def _start(folder: Path, port: int, password: bool) -> "subprocess.Popen[str]":
    (folder / "storage").mkdir(parents=True)
    settings = {
        "Name": "test",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "HttpPort": port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": password,
        "RegisteredUsers": {USER: PASSWORD} if password else {},
        "DicomServerEnabled": False,
        "Plugins": [str(PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    command = [str(PROGRAM), str(folder / "orthanc.json")]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=folder)


def _is_ready(process: "subprocess.Popen[str]") -> bool:
    """Read the log until it says so; False where the program ends first."""
    assert process.stderr is not None
    return any("Orthanc has started" in line for line in process.stderr)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
