"""`chextriev doctor`: attack a running deployment, harmlessly, and say what is open."""

import argparse
import os
from dataclasses import asdict
from pathlib import Path

from chextriev.cli.output import EXIT_REFUSED, emit, finish_parser


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.description = (
        "Attack a running deployment, harmlessly: one line a check, with what was seen and the cure. Exit status 0 if"
        " every check passes, else 2. Among the requests are an image bomb and one of 96 MB. Run"
        " it from where the clients are, and only on a server of your own."
    )
    parser.add_argument("host", metavar="HOST", help="name or address of the server")
    parser.add_argument("--grpc-port", type=int, default=8001, metavar="N", help="default: %(default)s")
    parser.add_argument("--http-port", type=int, default=8000, metavar="N", help="default: %(default)s")
    parser.add_argument("--metrics-port", type=int, default=8002, metavar="N", help="default: %(default)s")
    parser.add_argument("--ca", type=Path, metavar="FILE", help="authority of the server's certificate, PEM")
    parser.add_argument("--certificate", type=Path, metavar="FILE", help="the client's own, for mutual TLS, PEM")
    parser.add_argument("--key", type=Path, metavar="FILE", help="of --certificate, PEM")
    parser.add_argument("--system", help="the encoder to try (default: every one that is served)")
    parser.add_argument("--timeout", type=float, default=10.0, metavar="S", help="of a request (default: %(default)s)")
    parser.add_argument("--destructive", action="store_true", help="try also what ends an old server")
    finish_parser(parser, _doctor)


def _doctor(options: argparse.Namespace) -> int:
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what fails to connect is ours to say
    from chextriev.serving.doctor.examine import examine
    from chextriev.serving.doctor.target import Target

    target = Target(
        options.host,
        grpc_port=options.grpc_port,
        http_port=options.http_port,
        metrics_port=options.metrics_port,
        ca=options.ca,
        certificate=options.certificate,
        key=options.key,
        system=options.system,
        timeout_s=options.timeout,
    )
    outcomes = []
    for outcome in examine(target, destructive=options.destructive):
        outcomes.append(outcome)
        if not options.json:
            cure = f" - {outcome.cure}" if outcome.cure else ""
            print(f"{outcome.state:11}  {outcome.check}: {outcome.seen}{cure}", flush=True)
    counts = {state: sum(item.state == state for item in outcomes) for state in ("pass", "fail", "cannot tell")}
    summary = ", ".join(f"{count} {state}" for state, count in counts.items())
    emit(options, summary, {"host": options.host, "checks": [asdict(item) for item in outcomes], **counts})
    return 0 if counts["pass"] == len(outcomes) else EXIT_REFUSED
