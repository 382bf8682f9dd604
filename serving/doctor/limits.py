"""Limits in the configuration of the models, and on what HTTP takes in; and what refusals give away."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from chextriev.serving.doctor.outcome import Outcome, judge, unclear
from chextriev.serving.doctor.plain_http import http_request
from chextriev.serving.doctor.target import Session, shorten
from chextriev.serving.wire import MAX_BATCH

HUGE_BODY = 10**12
"""Bytes that an HTTP request announces and never sends."""
PATIENCE_S = 2.0
"""For a refusal of it."""
NEST = 200_000
"""Levels of nested JSON; Triton before 2.69 ends itself at them."""
_LEAKS = {
    "a traceback": re.compile(r"Traceback|File \"|line \d+, in |\.py\(\d+\):"),
    "a path": re.compile(
        r"(?<![\w.])/(?:opt|usr|home|root|models|tmp|var|srv|mnt|data|workspace)/[\w./-]+|[\w/]+\.py\b"
    ),
    "the name of a shared memory region": re.compile(r"triton_python_backend_shm"),
}


def check_queues(configs: dict[str, Any]) -> Outcome:
    """Whether every model refuses requests beyond a number that wait, and those that wait too long."""
    check = "queues are limited"
    workers = {name: config for name, config in configs.items() if config.platform != "ensemble"}
    if not workers:
        return unclear(check, "no configuration of a model can be read")
    faults = {name: ", ".join(missing) for name, config in workers.items() if (missing := list(_missing(config)))}
    seen = "; ".join(f"{name}: {fault}" for name, fault in sorted(faults.items())) or ", ".join(sorted(workers))
    cure = "set dynamic_batching.default_queue_policy, as `chextriev export repository` does"
    return judge(check, not faults, seen, cure)


def check_batches(configs: dict[str, Any]) -> Outcome:
    """Whether every model limits its batch."""
    check = "batches are limited"
    if not configs:
        return unclear(check, "no configuration of a model can be read")
    wrong = [
        f"{name}: {config.max_batch_size}" for name, config in configs.items() if not 0 < config.max_batch_size <= 4096
    ]
    seen = "max_batch_size of " + ", ".join(wrong) if wrong else f"{len(configs)} models"
    return judge(check, not wrong, seen, f"set max_batch_size, {MAX_BATCH} for models of ours")


def check_body(session: Session) -> Outcome:
    """Whether HTTP refuses a body of a terabyte when it is announced, in place of waiting for it."""
    check = "a terabyte over HTTP is refused"
    if session.no_http is not None:
        return Outcome(check, "pass", "HTTP is out of reach")
    target = session.target
    announced = {"Content-Length": str(HUGE_BODY)}
    address, wait_s = (target.host, target.http_port), min(target.timeout_s, PATIENCE_S)
    answer = http_request(address, "POST /v2/models/none/infer", b"", announced, timeout_s=wait_s)
    seen = "it waits for the body" if answer.waits else f"status {answer.status} {shorten(answer.text, 80)}"
    refused = not answer.waits and (answer.status == 0 or 400 <= answer.status < 500)
    return judge(check, refused, seen, "close HTTP, or put a proxy with a limit of 128 MB in front of it")


def check_nesting(session: Session, ensemble: str) -> Outcome:
    """Whether nested JSON, sent to a model that is served, leaves the server alive. Destructive before Triton 2.69."""
    check = "nested JSON leaves the server alive"
    if session.no_http is not None:
        return Outcome(check, "pass", "HTTP is out of reach")
    session.http("POST", f"/v2/models/{ensemble}/infer", b"[" * NEST)
    alive = session.http("GET", "/v2/health/live").status == 200
    return judge(check, alive, "it lives" if alive else "it is dead", "move to Triton 2.69 (image 26.05) or later")


def check_leaks(session: Session) -> Outcome:
    """Whether any refusal of this examination holds a traceback, a path or the name of a memory region."""
    check = "refusals give nothing away"
    if not session.refusals:
        return unclear(check, "nothing was refused")
    found = {what: shorten(hit[0], 60) for what, form in _LEAKS.items() for hit in _matches(form, session.refusals)}
    seen = "; ".join(f"{what}: {text}" for what, text in found.items()) or f"{len(session.refusals)} read"
    return judge(
        check, not found, seen, "models must answer with an error in words: serve our repository, on Triton 25.08+"
    )


def read_configs(session: Session, names: Sequence[str]) -> dict[str, Any]:
    """Configurations of these models, of those that are served, and of the steps of their ensembles."""
    configs: dict[str, Any] = {}
    waiting = list(names)
    while waiting and len(configs) < 200:
        name = waiting.pop(0)
        answer = session.ask("ModelConfig", {"name": name})
        if answer.code == "OK":
            configs[name] = answer.message.config
            steps = {step.model_name for step in answer.message.config.ensemble_scheduling.step}
            waiting += sorted(steps - set(configs) - set(waiting))
    return configs


def _missing(config: Any) -> Iterator[str]:
    policy = config.dynamic_batching.default_queue_policy
    if not config.HasField("dynamic_batching") or not policy.max_queue_size:
        yield "max_queue_size"
    if not policy.default_timeout_microseconds:
        yield "default_timeout_microseconds"
    if policy.timeout_action != policy.REJECT:
        yield "timeout_action REJECT"


def _matches(form: re.Pattern[str], texts: list[str]) -> Iterator[re.Match[str]]:
    return (hit for text in texts if (hit := form.search(text)))
