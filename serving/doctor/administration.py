"""Whether a stranger can administer the server: each interface is tried over gRPC and over HTTP, in vain by design.

Models and regions of memory have a random name that cannot exist; settings are written back as they were read.
"""

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from secrets import token_hex
from typing import Any

from chextriev.serving.doctor.outcome import Outcome, judge, unclear
from chextriev.serving.doctor.target import FORBIDDEN, Session

_RESTRICT = (
    "start Triton with --grpc-restricted-protocol={0}:admin-key=SECRET and --http-restricted-api={0}:admin-key=SECRET"
)


@dataclass(frozen=True)
class Interface:
    """An interface of administration.

    protocol: Triton's name for it. grpc: method and fields of a message. http: verb, path and body.
    """

    check: str
    protocol: str
    grpc: tuple[str, dict[str, Any]]
    http: tuple[str, str, dict[str, Any]]
    why: str


def interfaces(name: str) -> tuple[Interface, ...]:
    """What is tried; `name` is that of a model and a region that do not exist."""
    region = {"name": name, "key": f"/{name}", "offset": 0, "byte_size": 1}
    handle = {"name": name, "raw_handle": bytes(64), "device_id": 0, "byte_size": 1}
    as_json = {"raw_handle": {"b64": base64.b64encode(bytes(64)).decode()}, "device_id": 0, "byte_size": 1}
    return (
        Interface(
            "the list of models is closed",
            "model-repository",
            ("RepositoryIndex", {}),
            ("POST", "/v2/repository/index", {}),
            "it names every model in the repository",
        ),
        Interface(
            "models cannot be loaded",
            "model-repository",
            ("RepositoryModelLoad", {"model_name": name}),
            ("POST", f"/v2/repository/models/{name}/load", {}),
            "it tried to load a model: a stranger can bring code",
        ),
        Interface(
            "models cannot be unloaded",
            "model-repository",
            ("RepositoryModelUnload", {"model_name": name}),
            ("POST", f"/v2/repository/models/{name}/unload", {}),
            "it tried to unload a model: a stranger can stop the service",
        ),
        Interface(
            "shared memory is closed",
            "shared-memory",
            ("SystemSharedMemoryRegister", region),
            ("POST", f"/v2/systemsharedmemory/region/{name}/register", region),
            "it tried to open a region of the server's memory",
        ),
        Interface(
            "CUDA shared memory is closed",
            "shared-memory",
            ("CudaSharedMemoryRegister", handle),
            ("POST", f"/v2/cudasharedmemory/region/{name}/register", as_json),
            "it tried to open a region of the GPU's memory",
        ),
        Interface(
            "statistics are closed",
            "statistics",
            ("ModelStatistics", {}),
            ("GET", "/v2/models/stats", {}),
            "they tell what others ask, and when",
        ),
    )


def check_interfaces(session: Session) -> list[Outcome]:
    """One outcome for each of `interfaces`."""
    return [_check(session, interface) for interface in interfaces(f"chextriev-doctor-{token_hex(8)}")]


def check_settings(session: Session) -> list[Outcome]:
    """Whether the settings of traces and logs can be written: what was read is written back."""
    trace = _check_setting(
        session, "trace settings are closed", "trace", ("TraceSetting", "/v2/trace/setting", _same_trace)
    )
    log = _check_setting(session, "log settings are closed", "logging", ("LogSettings", "/v2/logging", _same_log))
    return [trace, log]


def _check(session: Session, interface: Interface) -> Outcome:
    if not session.reached:
        return unclear(interface.check, "gRPC does not answer")
    answer = session.ask(*interface.grpc)
    verb, path, body = interface.http
    over_http = session.http(verb, path, json.dumps(body).encode() if verb == "POST" else b"")
    open_doors = [] if answer.restricted or answer.forbidden else [f"gRPC ({answer})"]
    open_doors += [] if over_http.closed or FORBIDDEN in over_http.text else [f"HTTP (status {over_http.status})"]
    if answer.silent:
        return unclear(interface.check, f"gRPC: {answer}", "see that the server still answers")
    seen = f"{' and '.join(open_doors)}: {interface.why}" if open_doors else str(answer)
    return judge(interface.check, not open_doors, seen, _RESTRICT.format(interface.protocol))


def _check_setting(
    session: Session, check: str, protocol: str, doors: tuple[str, str, Callable[[Any], dict[str, Any]]]
) -> Outcome:
    if not session.reached:
        return unclear(check, "gRPC does not answer")
    method, path, same = doors
    answer = session.ask(method, {})
    if answer.silent:
        return unclear(check, f"gRPC: {answer}", "see that the server still answers")
    found = []
    if answer.code == "OK":
        written = session.ask(method, {"settings": same(answer.message.settings)})
        found.append("gRPC lets them be " + ("written" if written.code == "OK" else "read"))
    if session.http("GET", path).status == 200:
        found.append("HTTP lets them be read")
    seen = " and ".join(found) + ": a stranger can have requests written to disk" if found else str(answer)
    return judge(check, not found and answer.restricted, seen, _RESTRICT.format(protocol))


def _same_trace(settings: Any) -> dict[str, Any]:
    """The setting that traces nothing or something, as it is."""
    return {"trace_level": {"value": list(settings["trace_level"].value)}} if "trace_level" in settings else {}


def _same_log(settings: Any) -> dict[str, Any]:
    """The level of verbose messages, as it is."""
    level = "log_verbose_level"
    return {level: {"uint32_param": settings[level].uint32_param}} if level in settings else {}
