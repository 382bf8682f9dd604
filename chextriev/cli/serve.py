"""`chextriev serve`: bundles behind a real Triton on this machine, until it is told to stop."""

import argparse
import json
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chextriev.errors import DamagedArtifact, InvalidSetting, NotAnArtifact, ServerNotStarted

if TYPE_CHECKING:
    from chextriev.serving.local_server import LocalServer

REPOSITORIES = "repositories"
_MADE = re.compile("[0-9a-f]{12}")
_HALF_MADE = re.compile(r"\.([0-9a-f]{12})\.(?:tmp|old)-.*")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("bundles", type=Path, nargs="*", metavar="BUNDLE", help="encoder bundles, one of each system")
    parser.add_argument("--repository", type=Path, metavar="DIR", help="a model repository to serve in their place")
    parser.add_argument("--index", type=Path, action="append", default=[], metavar="DIR", help="an index to search")
    parser.add_argument("--localizer", type=Path, metavar="BUNDLE", help="proposes boxes where none are sent")
    parser.add_argument("--engine", metavar="NAME", help="engine of each bundle (default: onnx-fp32)")
    parser.add_argument("--localizer-engine", metavar="NAME", help="of the localizer (default: that of the bundles)")
    parser.add_argument("--signed-by", type=Path, metavar="PEM", help="public key that must have signed the bundles")
    parser.add_argument("--state", type=Path, metavar="DIR", help="for repository and log (default: the user's cache)")
    for kind in ("grpc", "http", "metrics"):
        parser.add_argument(f"--{kind}-port", type=int, default=0, metavar="N", help="default: a free one")
    parser.add_argument("--json", action="store_true", help="print events, one JSON document a line")
    parser.set_defaults(run=_serve)


def _serve(options: argparse.Namespace) -> int:
    from chextriev.serving.environment import cache_folder
    from chextriev.serving.local_server import LocalServer, ServerSettings

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    state = options.state or cache_folder() / "serve"
    settings = ServerSettings(options.grpc_port, options.http_port, options.metrics_port, state=state)
    try:
        with served_repository(options, state) as repository, LocalServer(repository, settings) as server:
            _follow(server, options)
    except KeyboardInterrupt:
        _say(options, "stopped", {"event": "stopped"})
    return 0


@contextmanager
def served_repository(options: argparse.Namespace, state: Path) -> Iterator[Path]:
    """The repository that was given, or one of the bundles in the state folder's `repositories`.

    What is made there is removed at the end, since an index tells of patients; so is what a killed server left there.
    """
    from chextriev.scratch import locked

    if bool(options.bundles) == bool(options.repository):
        raise InvalidSetting("give either bundles to serve or --repository")
    if options.repository:
        said = ("index", "localizer", "engine", "localizer_engine", "signed_by")
        if wrong := [f"--{name.replace('_', '-')}" for name in said if getattr(options, name)]:
            raise InvalidSetting(f"a repository has its indexes, localizer and engines; leave out {', '.join(wrong)}")
        yield options.repository
        return
    folder = state.resolve() / REPOSITORIES
    state.mkdir(0o700, parents=True, exist_ok=True)
    folder.mkdir(0o700, exist_ok=True)
    with locked(folder) as ours:
        if not ours:
            raise ServerNotStarted(f"another server uses {state}; give this one a state folder of its own")
        remove_repositories(folder)
        try:
            yield _built(options, folder)
        finally:
            remove_repositories(folder)


def remove_repositories(folder: Path) -> None:
    """Remove the repositories that `serve` made in this folder of its own, and nothing else."""
    from chextriev.artifacts import read_manifest
    from chextriev.scratch import reap, remove
    from chextriev.serving.repository import KIND

    for path in list(folder.iterdir()):
        half_made = _HALF_MADE.fullmatch(path.name)
        if half_made:
            reap(folder / half_made[1])
        elif _MADE.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            with suppress(NotAnArtifact, DamagedArtifact):
                read_manifest(path, KIND)
                remove(path)


def _built(options: argparse.Namespace, folder: Path) -> Path:
    """The repository of the bundles, named after what it is made of."""
    from chextriev.artifacts import digest_of, read_manifest
    from chextriev.bundle import open_bundle
    from chextriev.index.generation import KIND
    from chextriev.index.search import find_generation
    from chextriev.serving.repository import build_repository
    from chextriev.serving.repository_settings import RepositorySettings

    bundles = [open_bundle(path, signed_by=options.signed_by) for path in options.bundles]
    localizer = open_bundle(options.localizer, signed_by=options.signed_by) if options.localizer else None
    settings = RepositorySettings(
        engine=options.engine, indexes=tuple(options.index), localizer_engine=options.localizer_engine
    )
    parts = [bundle.manifest.digest for bundle in [*bundles, *([localizer] if localizer else [])]]
    parts += [read_manifest(find_generation(path), KIND).digest for path in options.index]
    repository = folder / digest_of([*parts, settings.engine, settings.localizer_engine])[:12]
    build_repository(bundles, repository, settings, localizer=localizer)
    return repository


def _follow(server: "LocalServer", options: argparse.Namespace) -> None:
    """Print what happens to the server, until a signal ends it."""
    seen = 0
    while True:
        event = server.wait_event(seen)
        if event is None:
            continue
        content: dict[str, Any] = {"event": event.kind, "text": event.text, "at": event.at}
        text = f"{event.kind}: {event.text}"
        if seen == 0:
            content |= {name: getattr(server, name) for name in ("grpc", "http", "metrics", "models", "ensembles")}
            content["log"] = str(server.log)
            text = _in_words(server)
        _say(options, text, content)
        seen += 1


def _in_words(server: "LocalServer") -> str:
    return (
        f"ready: {', '.join(server.ensembles) or ', '.join(server.models)}\n"
        f"gRPC {server.grpc}, HTTP {server.http}, metrics http://{server.metrics}/metrics; for this machine alone\n"
        f"log {server.log}; stop with Ctrl-C"
    )


def _say(options: argparse.Namespace, text: str, content: dict[str, Any]) -> None:
    print(json.dumps(content, ensure_ascii=False) if options.json else text, flush=True)
