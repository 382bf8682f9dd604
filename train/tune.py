"""`chextriev train tune`: a search over settings of a training configuration, each trial a run of its own.

    OUT/trials/NAME.yaml   the training configuration of a trial; NAME is a digest of its settings
    OUT/trials/NAME/       its run, as `train fit` leaves it
    OUT/study/             Optuna's journal of the trials, and a lock
    OUT/best.yaml          the configuration of the best trial, once the search is complete

What is tried next depends on the seed and the trials before it alone, so an interrupted search goes on as if it had not
been: the trial that was cut off is drawn again, its run goes on from its last checkpoint, and equal trials are trained
once. A trial whose metric is not a number, because its training diverged, has failed: another is drawn in its place.
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
from chextriev.errors import DamagedArtifact, EmptySplit, InvalidSetting, OutputExists, TrainingDiverged
from chextriev.optional import require
from chextriev.study_table import KIND as STUDY_TABLE
from chextriev.study_table import read_study_table
from chextriev.train.backbones.weights import RANDOM
from chextriev.train.feature_store import KIND as FEATURES
from chextriev.train.feature_store import open_features
from chextriev.train.fit import run_train
from chextriev.train.search_space import Choices, Range, SearchSpace
from chextriev.train.settings_tree import Tree, find, place
from chextriev.train.trial_settings import TrialSettings, trial_name

if TYPE_CHECKING:
    import optuna

STUDY, TRIALS, BEST = "study", "trials", "best.yaml"
_JOURNAL, _LOCK = "journal.jsonl", "lock"
_SETTINGS = "settings"
_DIVERGED = "diverged"


@dataclass(frozen=True)
class Trial:
    """One finished trial.

    number: from 0, of complete trials in their order and of failed ones in theirs. value: the best of the metric that
    its run reached, NaN if the trial failed. run: its directory.
    """

    number: int
    value: float
    parameters: Mapping[str, Any]
    run: Path

    @property
    def failed(self) -> bool:
        """Whether its training diverged."""
        return math.isnan(self.value)


@dataclass(frozen=True)
class Search:
    """A complete search: its trials, the best of them, and the training configuration that repeats the best."""

    metric: str
    trials: tuple[Trial, ...]
    best: Trial
    configuration: Path


def tune(space: SearchSpace, base: Tree, out: Path, *, on_trial: Callable[[Trial], None] = lambda _: None) -> Search:
    """Search until `space.trials` trials are complete, going on with what `out` holds of the same search.

    base: a training configuration, data included. on_trial: called after each trial, failed ones too.
    Raises OutputExists where `out` holds another search or one is at work there, EmptySplit where the validate split
    has no positive finding, InvalidSetting once as many trials have failed as are wanted, and what `train fit` raises.
    """
    base = _with_absolute_files(base)
    settings, out = TrialSettings(base, space), Path(out)
    _check_validate_split(settings)
    _check_out(out)
    (out / STUDY).mkdir(parents=True, exist_ok=True)
    with _alone(out):
        study = _open_study(out, settings)
        while len(done := _completed(study, out, settings)) < space.trials:
            _check_failures(study, settings)
            on_trial(_next_trial(study, out, settings))
        best = max(done, key=lambda trial: trial.value)
        found = f"# Trial {best.number + 1} of {len(done)}: {space.metric} {best.value:.4f}\n"
        write_text(out / BEST, found + best.run.with_suffix(".yaml").read_text())
    return Search(space.metric, tuple(done), best, out / BEST)


def _next_trial(study: "optuna.Study", out: Path, settings: TrialSettings) -> Trial:
    """Draw parameters, train, and tell the study what came of them."""
    optuna = _optuna()
    done, failed = len(_trials(study, "COMPLETE")), len(_diverged(study))
    seed = int(digest_of([settings.space.seed, done + failed])[:8], 16)
    study.sampler = optuna.samplers.TPESampler(seed=seed)
    ordered = sorted(settings.space.space.items())  # the order of a file must not change what is drawn
    trial = study.ask({name: _distribution(domain) for name, domain in ordered})
    value = _train(out, settings, trial.params)
    run = _run_of(out, settings, trial.params)
    if math.isfinite(value):
        study.tell(trial, value)
        return Trial(done, value, dict(trial.params), run)
    trial.set_user_attr(_DIVERGED, True)  # tells it from a trial that was cut off, which is drawn again
    study.tell(trial, state=optuna.trial.TrialState.FAIL)
    return Trial(failed, math.nan, dict(trial.params), run)


def _train(out: Path, settings: TrialSettings, parameters: Mapping[str, Any]) -> float:
    """The best value of the metric in the run of these parameters; not finite where training diverged at once."""
    configuration = settings.configuration(parameters)
    run = _run_of(out, settings, parameters)
    run.parent.mkdir(exist_ok=True)
    write_text(run.with_suffix(".yaml"), yaml.safe_dump(configuration, sort_keys=False, allow_unicode=True))
    words = ["fit", "--trainer.enable_model_summary", "false", "--config", str(run.with_suffix(".yaml"))]
    try:
        facts = run_train([*words, "--out", str(run)]).manifest.facts
    except TrainingDiverged:
        return math.nan
    value: float = facts[f"best_{settings.space.metric}"]
    return value


def _run_of(out: Path, settings: TrialSettings, parameters: Mapping[str, Any]) -> Path:
    return out / TRIALS / trial_name(settings.configuration(parameters))


def _completed(study: "optuna.Study", out: Path, settings: TrialSettings) -> list[Trial]:
    return [
        Trial(number, float(trial.value or 0), dict(trial.params), _run_of(out, settings, trial.params))
        for number, trial in enumerate(_trials(study, "COMPLETE"))
    ]


def _trials(study: "optuna.Study", state: str) -> "list[optuna.trial.FrozenTrial]":
    found: list[optuna.trial.FrozenTrial] = study.get_trials(deepcopy=False, states=[_optuna().trial.TrialState[state]])
    return found


def _diverged(study: "optuna.Study") -> "list[optuna.trial.FrozenTrial]":
    return [trial for trial in _trials(study, "FAIL") if _DIVERGED in trial.user_attrs]


def _check_failures(study: "optuna.Study", settings: TrialSettings) -> None:
    """InvalidSetting where as many trials have diverged as are to be completed."""
    failed = _diverged(study)
    if len(failed) >= settings.space.trials:
        last = ", ".join(f"{name} = {value!r}" for name, value in failed[-1].params.items())
        raise InvalidSetting(
            f"{len(failed)} trials diverged, so that {settings.space.metric} is not a number, the last one with {last};"
            " narrow the space, often model.learning_rate, and search into another --out"
        )


def _check_validate_split(settings: TrialSettings) -> None:
    """EmptySplit where no metric of the validate split can tell one trial from another."""
    features = open_features(find(settings.base, "data.features"))
    table = read_study_table(find(settings.base, "data.table"))
    if not (table.image_findings[(table.split == "validate") & features.available] == 1).any():
        raise EmptySplit(
            f"no finding is positive in the validate split, so {settings.space.metric} says nothing; search on a study"
            " table with a larger one"
        )


def _open_study(out: Path, settings: TrialSettings) -> "optuna.Study":
    """The study of these settings, without trials that a dead process left running: theirs is drawn again first."""
    identity = _identity(settings)
    study = _load_study(out)
    held = study.user_attrs.get(_SETTINGS, identity)
    if held != identity:
        if _trials(study, "COMPLETE"):
            raise OutputExists(
                f"{out} holds a search of another space, training configuration or data; choose another --out"
            )
        (out / STUDY / _JOURNAL).unlink()  # nothing was found yet: a mended space file may start anew
        study = _load_study(out)
    study.set_user_attr(_SETTINGS, identity)
    for trial in _trials(study, "RUNNING"):
        study.tell(trial.number, state=_optuna().trial.TrialState.FAIL)
        if _DIVERGED not in trial.user_attrs:
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


def _with_absolute_files(base: Tree) -> Tree:
    """So that the configurations in `out` mean the same data and weights wherever they are used from."""
    for name in ("data.features", "data.table", "model.weights"):
        given = find(base, name)
        if given is not None and not str(given).startswith(RANDOM):
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
