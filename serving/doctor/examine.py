"""The whole examination of a deployment."""

from collections.abc import Iterator

from chextriev.serving.doctor import administration, attacks, doors, limits
from chextriev.serving.doctor.outcome import Outcome, unclear
from chextriev.serving.doctor.target import Session, Target
from chextriev.serving.wire import ensemble_name, index_name
from chextriev.systems import SYSTEMS


def examine(target: Target, *, destructive: bool = False) -> Iterator[Outcome]:
    """Every check, in order, as it is done.

    Nothing is changed that stays changed; a server without limits is made to hold one image of 96 MB for a moment.
    With `destructive`, also what ends an old server. Raises InvalidSetting, MissingFile for unreadable certificates,
    MissingDependency without the client's packages.
    """
    with Session(target) as session:
        yield doors.check_reachable(session)
        yield doors.check_tls(session)
        yield doors.check_http(session)
        yield doors.check_metrics(session)
        yield doors.check_version(session)
        yield from administration.check_interfaces(session)
        yield from administration.check_settings(session)
        yield from _models(session)
        yield limits.check_body(session)
        if destructive:
            yield limits.check_nesting(session)
        yield limits.check_leaks(session)


def _models(session: Session) -> Iterator[Outcome]:
    systems = [session.target.system] if session.target.system else list(SYSTEMS)
    names = [name for system in systems for name in (ensemble_name(system), index_name(system))]
    configs = limits.read_configs(session, names) if session.reached else {}
    ensembles = [name for system in systems if (name := ensemble_name(system)) in configs]
    if session.reached and not ensembles:  # their configurations may be closed
        ready = (ensemble_name(system) for system in systems)
        ensembles = [name for name in ready if session.ask("ModelReady", {"name": name}).code == "OK"]
    canary = attacks.check_canary(session, ensembles)
    yield canary
    yield limits.check_queues(configs)
    yield limits.check_batches(configs)
    if not ensembles:
        yield unclear("bombs and giants are refused", "no encoder of ours is served")
        return
    yield attacks.check_batch(session, ensembles[0])
    yield attacks.check_bomb(session, ensembles[0])
    yield attacks.check_giant(session, ensembles[0])
    attacks.ask_wrongly(session, ensembles[0])
    again = attacks.check_canary(session, ensembles[:1])
    yield Outcome("it still answers after all that", again.state, again.seen, again.cure)
