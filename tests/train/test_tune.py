"""The search: it finds the better setting, survives a kill, and repeats nothing."""

import fcntl
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from chextriev.cli import main
from chextriev.errors import ChextrievError, DamagedArtifact, EmptySplit, InvalidSetting, OutputExists, UnknownSystem
from chextriev.train.configs import config_path
from chextriev.train.encoder_module import EncoderModule
from chextriev.train.feature_data import Batch
from chextriev.train.features import compute_features
from chextriev.train.fit import run_train
from chextriev.train.run_files import open_run
from chextriev.train.search_space import Choices, Range, read_space, space_from_dict
from chextriev.train.settings_tree import overlay, parse_words, place, read_configurations
from chextriev.train.spaces import space_path
from chextriev.train.trial_settings import TrialSettings, trial_name
from chextriev.train.tune import Search, _with_absolute_files, tune
from tests.tiny import write_tiny_table
from tests.train.tiny_training import QUIET, SMALL, MeanGrey, data_words

EPOCHS, STEPS = 2, 6  # of every trial: 12 radiographs in batches of 4
RATES = {"space": {"model.learning_rate": {"choices": [1e-9, 1e-3]}}, "trials": 3}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    compute_features(write_tiny_table(folder), folder / "features", MeanGrey())
    return folder


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """These networks are too small to share out; on a busy machine the threads would wait for each other."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with every training step."""
    step, calls = EncoderModule.training_step, list[int]()

    def watch(module: EncoderModule, batch: Batch, index: int) -> torch.Tensor:
        calls.append(index)
        return step(module, batch, index)

    monkeypatch.setattr(EncoderModule, "training_step", watch)
    return calls


def options(data: Path) -> list[str]:
    """What all trials share, as on the command line."""
    shared = ["--model.system", SMALL, "--data.batch_size", "4", "--trainer.max_epochs", str(EPOCHS)]
    return [*shared, *data_words(data), *QUIET]


def search(data: Path, out: Path, space: dict[str, Any], other: dict[str, Any] | None = None) -> Search:
    base: dict[str, Any] = {}
    for name, value in [*parse_words(options(data)), *(other or {}).items()]:
        base = place(base, name, value)
    return tune(space_from_dict(space), base, out)


def in_words(tmp_path: Path, space: dict[str, Any], *more: str) -> list[str]:
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(space))
    return ["train", "tune", str(tmp_path / "space.yaml"), "--out", str(tmp_path / "out"), *more]


def test_finds_the_better_rate_and_repeats_nothing(
    data: Path, tmp_path: Path, steps: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*in_words(tmp_path, RATES), *options(data)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in said[:3]] == ["trial 1/3", "trial 2/3", "trial 3/3"]
    assert said[3].split() == ["trial", "val_auroc", "model.learning_rate"]
    assert len(steps) == 2 * STEPS, "one trial drew a rate that another had"

    assert main([*in_words(tmp_path, RATES), *options(data), "--trials", "4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(steps) == 2 * STEPS
    assert len(found["trials"]) == 4
    assert found["best"]["parameters"] == {"model.learning_rate": 1e-3}
    values = {trial["parameters"]["model.learning_rate"]: trial["value"] for trial in found["trials"]}
    assert values[1e-3] > values[1e-9]
    assert open_run(found["best"]["run"])[1].facts["best_val_auroc"] == values[1e-3]


def test_the_best_configuration_trains(data: Path, tmp_path: Path) -> None:
    space = {"space": {"model.system.layers": {"choices": [1]}}, "trials": 1}
    found = search(data, tmp_path / "out", space)
    command = run_train(["fit", "--config", str(found.configuration), "--out", str(tmp_path / "again")])
    assert command.manifest.digest == open_run(found.best.run)[1].digest
    system = torch.load(tmp_path / "again" / "best.ckpt", weights_only=True)["hyper_parameters"]["system"]
    assert (system["layers"], system["edges"]) == (1, "learned")
    assert system["name"].startswith("tiny-")


def test_another_metric_chooses_the_checkpoint_too(data: Path, tmp_path: Path) -> None:
    found = search(data, tmp_path / "out", {**RATES, "metric": "val_precision_at_5", "trials": 1})
    facts = open_run(found.best.run)[1].facts
    assert found.best.value == facts["best_val_precision_at_5"]
    assert "best_val_auroc" not in facts


KILLED = """
import os, signal, sys
from chextriev.cli import main
from chextriev.train.encoder_module import EncoderModule
step, calls = EncoderModule.training_step, []
def die(module, batch, index):
    calls.append(index)
    if len(calls) == 10:  # in the second epoch of the second trial
        os.kill(os.getpid(), signal.SIGKILL)
    return step(module, batch, index)
EncoderModule.training_step = die
sys.exit(main(sys.argv[1:]))
"""


def test_a_killed_search_goes_on_with_the_trial_that_was_cut_off(data: Path, tmp_path: Path, steps: list[int]) -> None:
    space = {
        "space": {"model.learning_rate": {"low": 1e-5, "high": 1e-2, "log": True}, "data.seed": {"low": 0, "high": 9}},
        "trials": 3,
    }
    unbroken = search(data, tmp_path / "unbroken", space)
    assert len(steps) == 3 * STEPS
    words = [*in_words(tmp_path, space), *options(data)]
    killed = subprocess.run([sys.executable, "-c", KILLED, *words], capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert killed.stdout.startswith("trial 1/3: val_auroc")
    assert len(list((tmp_path / "out").glob("trials/*/manifest.json"))) == 1
    assert len(list((tmp_path / "out").glob("trials/*/last.ckpt"))) == 2

    steps.clear()
    resumed = search(data, tmp_path / "out", space)
    assert len(steps) == STEPS // 2 + STEPS, "half of the second trial and all of the third"
    assert [(trial.value, trial.parameters) for trial in resumed.trials] == [
        (trial.value, trial.parameters) for trial in unbroken.trials
    ]


def test_a_failed_trial_stops_the_search_and_a_mended_space_begins_anew(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="batch size 0"):
        search(data, tmp_path / "out", {"space": {"data.batch_size": {"choices": [0]}}})
    assert len(search(data, tmp_path / "out", {**RATES, "trials": 1}).trials) == 1


def test_another_search_is_refused(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    search(data, out, {**RATES, "trials": 1})
    before = (out / "best.yaml").read_bytes()
    others: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({**RATES, "seed": 1}, {}),
        ({**RATES, "metric": "val_precision_at_5"}, {}),
        (RATES, {"trainer.max_epochs": 3}),
    ]
    for space, other in others:
        with pytest.raises(OutputExists, match=r"another space, training configuration or data; choose another --out"):
            search(data, out, space, other)
    with (out / "study" / "lock").open() as held, pytest.raises(OutputExists, match="another search is at work"):
        fcntl.flock(held, fcntl.LOCK_EX)
        search(data, out, RATES)
    with pytest.raises(OutputExists, match="something else than a search"):
        search(data, data, RATES)
    assert (out / "best.yaml").read_bytes() == before


def test_a_damaged_journal_is_refused_and_costs_no_training(data: Path, tmp_path: Path, steps: list[int]) -> None:
    first = search(data, tmp_path / "out", {**RATES, "trials": 1})
    journal = tmp_path / "out" / "study" / "journal.jsonl"
    journal.write_bytes(b"{half a line\n" + journal.read_bytes())
    with pytest.raises(DamagedArtifact, match="remove it and tune again"):
        search(data, tmp_path / "out", RATES)
    journal.unlink()
    steps.clear()
    assert search(data, tmp_path / "out", {**RATES, "trials": 1}).trials == first.trials
    assert not steps


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "a search space has space"),
        ({"space": {}, "trails": 3}, "got space, trails"),
        ({"space": {}}, "space is empty"),
        ({**RATES, "metric": "val_loss"}, "choose from val_auroc, val_precision_at_5"),
        ({**RATES, "trials": 0}, "trials is 0; a whole number from 1"),
        ({**RATES, "seed": True}, "seed is True; a whole number from 0"),
        ({"space": {"model.rate": {"choices": [1]}}}, "no setting model.rate; choose one of model.learning_rate, "),
        ({"space": {"data.table": {"choices": ["a"]}}}, "data.table cannot be searched"),
        ({"space": {"learning_rate": {"choices": [1]}}}, "learning_rate cannot be searched; settings of model, data"),
        ({"space": {"model.learning_rate": [1, 2]}}, "{low: , high: , log: } or {choices: [...]} is needed"),
        ({"space": {"model.learning_rate": {"low": 1}}}, "is needed"),
        ({"space": {"model.learning_rate": {"low": 2, "high": 1}}}, "model.learning_rate: low is 2 and high 1"),
        ({"space": {"model.learning_rate": {"low": "a", "high": 1}}}, "low is 'a'; a number is needed"),
        ({"space": {"model.learning_rate": {"low": 0, "high": 1, "log": True}}}, "on a log scale"),
        ({"space": {"model.learning_rate": {"low": 0, "high": 1, "log": 1}}}, "log is 1; true or false"),
        ({"space": {"model.learning_rate": {"choices": []}}}, "a list of values is needed"),
        ({"space": {"model.learning_rate": {"choices": [[1]]}}}, "the choice [1] is not text"),
        ({"space": {"model.learning_rate": {"choices": [1, 1.0]}}}, "repeat a value"),
    ],
)
def test_a_wrong_space_is_refused(content: Any, said: str, tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(InvalidSetting) as refusal:
        read_space(path)
    assert str(refusal.value).startswith(f"{path}: ")
    assert said in str(refusal.value)


@pytest.mark.parametrize(
    ("space", "base", "said"),
    [
        ({"model.system.layers": {"low": 0, "high": 2}}, {}, "model.system.layers = 0 is not possible"),
        ({"model.system.region_loss_share": {"low": 0, "high": 1.5}}, {}, "1.5 is not possible"),
        ({"model.system.depth": {"choices": [1]}}, {}, "model.system.depth = 1 is not possible"),
        ({"data.seed": {"choices": [1]}}, {"out": "run"}, "out is set to 'run'; a search sets it for each trial"),
        ({"data.seed": {"choices": [1]}}, {"trainer.devices": 2}, "trainer.devices is 2"),
        ({"data.seed": {"choices": [1]}}, {"trainer.num_nodes": 2}, "trainer.num_nodes 2"),
        ({"data.seed": {"choices": [1]}}, {"data.table": None}, "data.table is not set; add --data.table DIRECTORY"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_anything_is_written(
    data: Path, tmp_path: Path, space: dict[str, Any], base: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidSetting) as refusal:
        search(data, tmp_path / "out", {"space": space}, base)
    assert said in str(refusal.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("metric", ["val_auroc", "val_precision_at_5"])
def test_a_validate_split_without_findings_is_refused(tmp_path: Path, metric: str) -> None:
    table = write_tiny_table(tmp_path, per_split=(2, 2, 2))  # the second patient has no finding
    compute_features(table, tmp_path / "features", MeanGrey())
    with pytest.raises(EmptySplit, match=f"no finding is positive in the validate split, so {metric} says nothing"):
        search(tmp_path, tmp_path / "out", {**RATES, "metric": metric})
    assert not (tmp_path / "out").exists()


MIXED_SEED = 1  # draws both rates
DIVERGING = {"space": {"model.learning_rate": {"choices": [1e30, 1e-3]}}, "trials": 3}


@pytest.mark.parametrize("metric", ["val_auroc", pytest.param("val_precision_at_5", marks=pytest.mark.slow)])
def test_a_trial_that_diverges_fails_and_another_is_drawn(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], metric: str
) -> None:
    space = {**DIVERGING, "metric": metric, "seed": MIXED_SEED}
    assert main([*in_words(tmp_path, space), *options(data)]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if "trial" in line.split(":")[0]]
    failed = [line for line in said if line.startswith(f"a trial failed: {metric} nan  model.learning_rate=1e+30; ")]
    assert 0 < len(failed) < 3
    found = search(data, tmp_path / "out", space)
    assert [trial.parameters for trial in found.trials] == [{"model.learning_rate": 1e-3}] * 3
    if metric != "val_auroc":  # what follows depends on no metric
        return
    more = search(data, tmp_path / "out", {**space, "trials": 5})
    assert more.trials[:3] == found.trials
    straight = search(data, tmp_path / "straight", {**space, "trials": 5})
    assert [trial.value for trial in straight.trials] == [trial.value for trial in more.trials]


def test_a_search_in_which_all_diverges_stops_in_words(data: Path, tmp_path: Path, steps: list[int]) -> None:
    space = {"space": {"model.learning_rate": {"choices": [1e30]}}, "trials": 2}
    for _ in range(2):
        with pytest.raises(
            InvalidSetting,
            match=r"2 trials diverged, so that val_auroc .* model.learning_rate = 1e\+30; narrow the space",
        ):
            search(data, tmp_path / "out", space)
        assert 0 < len(steps) <= STEPS, "the same trial is trained once"
    assert len(search(data, tmp_path / "out", {**RATES, "trials": 1}).trials) == 1, "a mended space begins anew"


def test_files_are_named_from_the_root(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(data)
    base = {"data": {"features": "features", "table": "study"}}
    for given, wanted in (("w.pth", str(data / "w.pth")), ("random:0", "random:0")):
        placed = _with_absolute_files({**base, "model": {"weights": given}})
        assert placed["data"] == {"features": str(data / "features"), "table": str(data / "study")}
        assert placed["model"]["weights"] == wanted


@pytest.mark.parametrize("path", sorted(space_path("v6").parent.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_spaces_fit_their_configurations(path: Path) -> None:
    base = overlay(read_configurations([config_path(path.stem)]), {"data": {"features": "f", "table": "t"}})
    settings = TrialSettings(base, read_space(path))
    drawn = {name: domain.extremes[0] for name, domain in settings.space.space.items()}
    one, other = (settings.configuration({**drawn, "model.system.layers": layers}) for layers in (1, 3))
    own = {"base": "v6", "layers": 1, "region_loss_share": 0.0, "residual": "global"}
    assert one["model"]["system"] == {"name": one["model"]["system"]["name"], **own}
    assert one["model"]["learning_rate"] == 1e-5
    assert {trial["model"]["system"]["name"][:3] for trial in (one, other)} == {"v6-"}
    assert trial_name(one) != trial_name(other)
    assert base["model"]["system"] == "v6", "the base stays as it was"
    with pytest.raises(UnknownSystem, match="no system 'v9' in the search spaces"):
        space_path("v9")


def test_spaces_are_read_as_configurations_are(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text("space: {model.learning_rate: {low: 1e-5, high: 1e-3}, model.system.layers: {choices: [1, 2]}}")
    space = read_space(path)
    assert dict(space.space) == {"model.learning_rate": Range(1e-5, 1e-3), "model.system.layers": Choices((1, 2))}
    assert (space.metric, space.trials, space.seed) == ("val_auroc", 20, 0)
    for content in (b"space: [", b"\xff\xfe"):
        path.write_bytes(content)
        with pytest.raises(InvalidSetting, match=r"space\.yaml is not"):
            read_space(path)


def test_wrong_words_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = {("--data.seed",): "each with its value", ("seed", "3"): "'seed': options", ("--a", "["): "--a is not YAML"}
    for words, said in cases.items():
        assert main([*in_words(tmp_path, RATES), *words]) == 2
        assert said in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        main(["train", "tune", "--data.seed", "3", "space.yaml", "--out", "out"])
    assert stop.value.code == 2
    assert "SPACE comes first" in capsys.readouterr().err
    (tmp_path / "list.yaml").write_text("[1]")
    with pytest.raises(ChextrievError, match="not a training configuration"):
        read_configurations([tmp_path / "list.yaml"])
