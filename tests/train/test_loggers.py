"""What keeps the curves of a run: where it writes, what it writes, and what happens without its library."""

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from chextriev.errors import MissingDependency
from chextriev.train.features import compute_features
from chextriev.train.fit import run_train
from tests.tiny import write_tiny_table
from tests.train.tiny_training import QUIET, SMALL, MeanGrey, data_words


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    compute_features(write_tiny_table(folder), folder / "features", MeanGrey())
    return folder


@pytest.fixture
def words(data: Path) -> Callable[[Path, str], list[str]]:
    def words_of(out: Path, logger: str) -> list[str]:
        fit = ["fit", "--model.system", SMALL, "--trainer.max_epochs", "1", "--data.batch_size", "6"]
        return [*fit, *data_words(data), *QUIET, "--logger", logger, "--out", str(out)]

    return words_of


def test_tensorboard_keeps_the_curves_and_none_keeps_nothing(
    words: Callable[[Path, str], list[str]], tmp_path: Path
) -> None:
    own = {"best.ckpt", "last.ckpt", "config.yaml", "manifest.json", "recipe.json"}
    for logger, kept in (("none", set()), ("tensorboard", {"events", "hparams.yaml"})):
        run_train(words(tmp_path / logger, logger))
        names = {path.name for path in (tmp_path / logger).iterdir()}
        assert {"events" if name.startswith("events.out.tfevents.") else name for name in names} == own | kept


@pytest.mark.parametrize("logger", ["wandb", "mlflow"])
def test_a_logger_that_is_not_installed_names_its_extra(
    words: Callable[[Path, str], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logger: str
) -> None:
    monkeypatch.setitem(sys.modules, logger, None)
    for variable in ("WANDB_ERROR_REPORTING", "MLFLOW_DISABLE_TELEMETRY"):
        monkeypatch.setenv(variable, "as it was")
    with pytest.raises(MissingDependency, match=rf"run: pip install 'chextriev\[{logger}\]'"):
        run_train(words(tmp_path / "run", logger))
    assert not (tmp_path / "run").exists()


TWO_RUNS = """
import sys
from chextriev.train.fit import run_train
for out in ("one", "two"):
    run_train([*sys.argv[1:], "--out", out])
"""


@pytest.mark.parametrize("logger", ["wandb", "mlflow"])
def test_a_logger_writes_under_its_run_alone(
    words: Callable[[Path, str], list[str]], tmp_path: Path, logger: str
) -> None:
    if find_spec(logger) is None:
        pytest.skip(f"{logger} is not installed: pip install 'chextriev[{logger}]'")
    for name in ("home", "work", "temporary"):
        (tmp_path / name).mkdir()
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB", "MLFLOW", "XDG"))}
    variables |= {"HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "temporary"), "OMP_NUM_THREADS": "1"}
    variables["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    del variables["PYTEST_CURRENT_TEST"]  # MLflow is quieter where it sees this
    command = [sys.executable, "-c", TWO_RUNS, *words(Path("run"), logger)]
    done = subprocess.run(command, cwd=tmp_path / "work", env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "work").iterdir()} == {"one", "two"}
    assert not [path for name in ("home", "temporary") for path in (tmp_path / name).rglob("*") if path.is_file()]
    for out in ("one", "two"):
        found = list(
            (tmp_path / "work" / out).glob("wandb/offline-run-*/*.wandb" if logger == "wandb" else "mlflow.db")
        )
        assert len(found) == 1, "one record a run"
        kept = b"".join(path.read_bytes() for path in (tmp_path / "work" / out).rglob("*") if path.is_file())
        assert b"val_auroc" in found[0].read_bytes()
        assert not [label for label in (b"patient-", b"image-0", b"study-0") if label in kept]
