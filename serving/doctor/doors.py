"""Which ports answer, and how: gRPC with and without TLS, HTTP, metrics, and the version of the server behind them."""

from chextriev.serving.doctor.outcome import Outcome, judge, unclear
from chextriev.serving.doctor.plain_http import http_request
from chextriev.serving.doctor.target import Session, shorten
from chextriev.serving.doctor.versions import HOLES, open_holes, read_version


def check_reachable(session: Session) -> Outcome:
    """Whether a Triton answers gRPC."""
    check, best, address = "gRPC answers", session.best, session.target.address
    if best.code == "OK":
        way = "over TLS" if best is session.tls else "without TLS"
        return Outcome(check, "pass", f"{address}, {way}: {shorten(best.message.name, 40)} {best.message.version}")
    if session.reached:
        return Outcome(check, "pass", f"{address}: it keeps its name to itself")
    words = best.words.lower()
    if "certificate_verify_failed" in words or "peer name" in words or "not match" in words:
        cure = "give --ca with the authority that signed the server's certificate, and a host that it names"
    elif "handshake" in words or "tlsv1" in words or "alert" in words:
        cure = "give --certificate and --key, if the server wants a client's certificate, and --ca"
    elif best.silent:
        cure = "start the server, or give its host and --grpc-port; look for a firewall in between"
    else:
        cure = "something else than Triton is there; give its host and --grpc-port"
    return Outcome(check, "fail", f"{address}: {best}", cure)


def check_tls(session: Session) -> Outcome:
    """Whether gRPC is refused without TLS."""
    check = "gRPC is closed without TLS"
    if not session.plain.silent:
        cure = (
            "start Triton with --grpc-use-ssl=true, --grpc-server-cert and --grpc-server-key, or put TLS in front of it"
        )
        return Outcome(check, "fail", "images and answers travel in the clear", cure)
    if session.tls.silent:
        return unclear(check, "gRPC does not answer")
    return Outcome(check, "pass", "without TLS there is no answer")


def check_http(session: Session) -> Outcome:
    """Whether HTTP, which Triton serves without TLS alone, is out of reach."""
    check, port = "HTTP is out of reach", session.target.http_port
    answer = session.http("GET", "/v2/health/live")
    if answer.status == 0 and not answer.waits:
        return Outcome(check, "pass", f"port {port}: {answer.text}")
    seen = f"port {port} answers with status {answer.status}" if answer.status else f"port {port} takes connections"
    cure = "HTTP has no TLS: start Triton with --http-address=127.0.0.1 or --allow-http=false, and do not publish it"
    return Outcome(check, "fail", seen, cure)


def check_metrics(session: Session) -> Outcome:
    """Whether the metrics, which have neither TLS nor a key, are out of reach."""
    check, target = "metrics are out of reach", session.target
    address = (target.host, target.metrics_port)
    answer = http_request(address, "GET /metrics", b"", {}, timeout_s=target.timeout_s)
    if answer.status == 0 and not answer.waits:
        return Outcome(check, "pass", f"port {target.metrics_port}: {answer.text}")
    tells = "tells of models and load" if "nv_inference" in answer.text else f"answers with status {answer.status}"
    cure = "publish the port to the monitoring network alone, or start Triton with --metrics-address"
    return Outcome(check, "fail", f"port {target.metrics_port} {tells}", cure)


def check_version(session: Session) -> Outcome:
    """Whether the server has the fixes that are known to matter."""
    check, newest = "server is recent", HOLES[-1]
    if session.best.code != "OK":
        return unclear(check, "the server does not tell its version", f"see that it is {newest.release} or later")
    text = shorten(session.best.message.version, 40)
    version = read_version(text)
    if version is None:
        return unclear(check, f"version {text!r}", f"see that it is {newest.release} or later")
    holes = open_holes(version)
    seen = f"{text}: " + "; ".join(f"{hole.what}, until {hole.release}" for hole in holes) if holes else text
    wanted = ".".join(map(str, newest.fixed))
    return judge(check, not holes, seen, f"move to Triton {wanted} (image {newest.release}) or later")
