"""`chextriev train tune`: a search over settings of a training configuration, each trial a run of its own.

    OUT/trials/NAME.yaml   the training configuration of a trial; NAME is a digest of its settings
    OUT/trials/NAME/       its run, as `train fit` leaves it
    OUT/study/             Optuna's journal of the trials, and a lock
    OUT/best.yaml          the configuration of the best trial, once the search is complete

What is tried next depends on the seed and the finished trials alone, so an interrupted search goes on as if it had not
been: the trial that was cut off is drawn again, its run goes on from its last checkpoint, and equal trials are trained
once.
"""

import fcntl
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from chextriev.artifacts import digest_of, read_manifest, write_text
from chextriev.errors import DamagedArtifact, EmptySplit, OutputExists
from chextriev.optional import require
from chextriev.study_table import KIND as STUDY_TABLE
from chextriev.train.feature_store import KIND as FEATURES
from chextriev.train.fit import run_train
from chextriev.train.search_space import Choices, Range, SearchSpace
from chextriev.train.settings_tree import Tree, find, place
from chextriev.train.trial_settings import TrialSettings, trial_name

if TYPE_CHECKING:
    import optuna

STUDY, TRIALS, BEST = "study", "trials", "best.yaml"
_JOURNAL, _LOCK = "journal.jsonl", "lock"
_SETTINGS = "settings"


@dataclass(frozen=True)
class Trial:
    """One completed trial.

    number: from 0, in the order of completion. value: the best of the metric that its run reached. run: its directory.
    """

    number: int
    value: float
    parameters: Mapping[str, Any]
    run: Path


@dataclass(frozen=True)
class Search:
    """A complete search: its trials, the best of them, and the training configuration that repeats the best."""

    metric: str
    trials: tuple[Trial, ...]
    best: Trial
    configuration: Path


def tune(space: SearchSpace, base: Tree, out: Path, *, on_trial: Callable[[Trial], None] = lambda _: None) -> Search:
    """Search until `space.trials` trials are complete, going on with what `out` holds of the same search.

    base: a training configuration, data included. on_trial: called after each trial.
    Raises OutputExists where `out` holds another search or one is at work there, and what `train fit` raises.
    """
    base = _with_absolute_data(base)
    settings, out = TrialSettings(base, space), Path(out)
    _check_out(out)
    (out / STUDY).mkdir(parents=True, exist_ok=True)
    with _alone(out):
        study = _open_study(out, settings)
        while len(done := _completed(study, out, settings)) < space.trials:
            _next_trial(study, out, settings)
            on_trial(_completed(study, out, settings)[-1])
        best = max(done, key=lambda trial: trial.value)
        found = f"# Trial {best.number + 1} of {len(done)}: {space.metric} {best.value:.4f}\n"
        write_text(out / BEST, found + best.run.with_suffix(".yaml").read_text())
    return Search(space.metric, tuple(done), best, out / BEST)


def _next_trial(study: "optuna.Study", out: Path, settings: TrialSettings) -> None:
    """Draw parameters, train, and tell the study what came of them."""
    optuna = _optuna()
    done = len(study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE]))
    seed = int(digest_of([settings.space.seed, done])[:8], 16)
    study.sampler = optuna.samplers.TPESampler(seed=seed)
    ordered = sorted(settings.space.space.items())  # the order of a file must not change what is drawn
    trial = study.ask({name: _distribution(domain) for name, domain in ordered})
    study.tell(trial, _train(out, settings, trial.params))


def _train(out: Path, settings: TrialSettings, parameters: Mapping[str, Any]) -> float:
    """The best value of the metric in the run of these parameters."""
    configuration = settings.configuration(parameters)
    run = out / TRIALS / trial_name(configuration)
    run.parent.mkdir(exist_ok=True)
    write_text(run.with_suffix(".yaml"), yaml.safe_dump(configuration, sort_keys=False, allow_unicode=True))
    words = ["fit", "--trainer.enable_model_summary", "false", "--config", str(run.with_suffix(".yaml"))]
    facts = run_train([*words, "--out", str(run)]).manifest.facts
    value: float = facts[f"best_{settings.space.metric}"]
    if not math.isfinite(value):
        raise EmptySplit(f"{settings.space.metric} is not a number; no finding is positive in the validate split")
    return value


def _completed(study: "optuna.Study", out: Path, settings: TrialSettings) -> list[Trial]:
    states = [_optuna().trial.TrialState.COMPLETE]
    trials = []
    for number, trial in enumerate(study.get_trials(deepcopy=False, states=states)):
        name = trial_name(settings.configuration(trial.params))
        trials.append(Trial(number, float(trial.value or 0), dict(trial.params), out / TRIALS / name))
    return trials


def _open_study(out: Path, settings: TrialSettings) -> "optuna.Study":
    """The study of these settings, without trials that a dead process left running: theirs is drawn again first."""
    identity = _identity(settings)
    study = _load_study(out)
    held = study.user_attrs.get(_SETTINGS, identity)
    if held != identity:
        if _has_completed(study):
            raise OutputExists(
                f"{out} holds a search of another space, training configuration or data; choose another --out"
            )
        (out / STUDY / _JOURNAL).unlink()  # nothing was found yet: a mended space file may start anew
        study = _load_study(out)
    study.set_user_attr(_SETTINGS, identity)
    states = _optuna().trial.TrialState
    for trial in study.get_trials(states=[states.RUNNING]):
        study.tell(trial.number, state=states.FAIL)
        study.enqueue_trial(trial.params)
    return study


def _load_study(out: Path) -> "optuna.Study":
    library = _optuna()
    journal = out / STUDY / _JOURNAL
    try:
        backend = library.storages.journal.JournalFileBackend(str(journal))
        storage = library.storages.JournalStorage(backend)
        study: optuna.Study = library.create_study(
            storage=storage, study_name=STUDY, direction="maximize", load_if_exists=True
        )
    except ValueError as error:
        raise DamagedArtifact(
            f"{journal} cannot be read ({error}); remove it and tune again: the trials' runs stay and are reused"
        ) from error
    return study


def _has_completed(study: "optuna.Study") -> bool:
    return bool(study.get_trials(deepcopy=False, states=[_optuna().trial.TrialState.COMPLETE]))


def _identity(settings: TrialSettings) -> str:
    """Digest of all that a search depends on: space, training configuration and data."""
    data = [
        read_manifest(Path(find(settings.base, name)), kind).digest
        for name, kind in (("data.features", FEATURES), ("data.table", STUDY_TABLE))
    ]
    return digest_of({"space": settings.space.identity(), "base": trial_name(settings.base), "data": data})


def _distribution(domain: Range | Choices) -> Any:
    distributions = _optuna().distributions
    if isinstance(domain, Choices):
        return distributions.CategoricalDistribution(domain.choices)
    if isinstance(domain.low, int) and isinstance(domain.high, int):
        return distributions.IntDistribution(domain.low, domain.high, log=domain.log)
    return distributions.FloatDistribution(domain.low, domain.high, log=domain.log)


def _with_absolute_data(base: Tree) -> Tree:
    """So that the configurations in `out` mean the same data wherever they are used from."""
    for name in ("data.features", "data.table"):
        if (given := find(base, name)) is not None:
            base = place(base, name, str(Path(given).absolute()))
    return base


def _check_out(out: Path) -> None:
    if (out / STUDY / _LOCK).is_file():
        return
    if out.is_file() or any(path.is_file() for path in out.rglob("*")):
        raise OutputExists(f"{out} holds something else than a search; choose another --out or move it away")


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Hold the search's lock, which ends with the process."""
    with (out / STUDY / _LOCK).open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputExists(
                f"another search is at work in {out}; wait for its end or choose another --out"
            ) from None
        yield


def _optuna() -> Any:
    optuna = require("optuna", extra="tune")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
