"""The whole examination of a deployment."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from chextriev.serving.doctor import administration, attacks, doors, limits
from chextriev.serving.doctor.outcome import Outcome, unclear
from chextriev.serving.doctor.target import Session, Target
from chextriev.serving.wire import ensemble_name, index_name, located_name
from chextriev.systems import SYSTEMS


def examine(target: Target, *, destructive: bool = False) -> Iterator[Outcome]:
    """Every check, in order, as it is done.

    Nothing is changed that stays changed, but for memory: among the requests is one of 96 MB (sent compressed), and
    Triton keeps some of what it took for it. With `destructive`, also what ends an old server. Raises InvalidSetting,
    MissingFile for unreadable certificates, MissingDependency without the client's packages.
    """
    with Session(target) as session:
        yield doors.check_reachable(session)
        yield doors.check_tls(session)
        yield doors.check_http(session)
        yield doors.check_metrics(session)
        yield doors.check_version(session)
        yield from administration.check_interfaces(session)
        yield from administration.check_settings(session)
        ensembles, configs = _served(session)
        yield attacks.check_canary(session, ensembles)
        if ensembles:
            yield limits.check_queues(configs)
            yield limits.check_batches(configs)
            yield from _attacks(session, ensembles[0])
        else:
            seen = "no encoder of ours is served" if session.reached else "gRPC does not answer"
            for check in ("queues are limited", "batches are limited", "bombs and giants are refused"):
                yield unclear(check, seen)
        yield limits.check_body(session)
        if destructive and ensembles:
            yield limits.check_nesting(session, ensembles[0])
        yield limits.check_leaks(session)


def _served(session: Session) -> tuple[list[str], dict[str, Any]]:
    """Names of the ensembles that are served, and the configurations of all models that can be read."""
    if not session.reached:
        return [], {}
    systems = [session.target.system] if session.target.system else list(SYSTEMS)
    names = [name for system in systems for name in (ensemble_name(system), located_name(system))]
    configs = limits.read_configs(session, [*names, *map(index_name, systems)])
    ensembles = [name for name in names if name in configs]
    if not ensembles:  # their configurations may be closed
        ensembles = [name for name in names if _ready(session, name)]
    return ensembles, configs


def _ready(session: Session, name: str) -> bool:
    """Triton answers OK for a model that it does not have, and says in the answer that it is not ready."""
    answer = session.ask("ModelReady", {"name": name})
    return answer.code == "OK" and bool(answer.message.ready)


def _attacks(session: Session, ensemble: str) -> Iterator[Outcome]:
    yield attacks.check_batch(session, ensemble)
    yield attacks.check_bomb(session, ensemble)
    yield attacks.check_giant(session, ensemble)
    attacks.ask_wrongly(session, ensemble)
    again = attacks.check_canary(session, [ensemble])
    yield replace(again, check="it still answers after all that")
