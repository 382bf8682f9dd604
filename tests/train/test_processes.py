"""Training as whole processes: two that share the work, and one that is killed."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from chextriev.embedding_set import read_embeddings
from chextriev.errors import EmptySplit
from chextriev.train.feature_data import Batches, Share
from chextriev.train.features import compute_features
from chextriev.train.gather import gather_rows
from tests.tiny import write_tiny_table
from tests.train.tiny_training import QUIET, SMALL, MeanGrey, data_words

ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}  # the data are tiny, and threads wait for each other
TWO = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """17 radiographs to validate: in batches of 4, two processes get unequal last ones and one position twice."""
    folder = tmp_path_factory.mktemp("data")
    compute_features(write_tiny_table(folder, per_split=(12, 17, 4)), folder / "features", MeanGrey())
    return folder


def train(data: Path, out: Path, action: str, *words: str) -> subprocess.CompletedProcess[str]:
    common = ["--model.system", SMALL, "--data.batch_size", "4", *data_words(data), *QUIET, "--out", str(out)]
    fit = ["--trainer.max_epochs", "2"] if action == "fit" else []
    command = [sys.executable, "-m", "chextriev", "train", action, *common, *fit, "--json", *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=ONE_THREAD)


def measured(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The JSON that is the output."""
    content: dict[str, Any] = json.loads(done.stdout)
    return content


def test_two_processes_measure_what_one_does(data: Path, tmp_path: Path) -> None:
    facts = measured(train(data, tmp_path / "run", "fit", *TWO, "--logger", "tensorboard"))
    assert (facts["epochs"], facts["steps"]) == (2, 4)  # 12 radiographs, 4 a process, 2 steps an epoch
    assert len(list((tmp_path / "run").glob("events.out.tfevents.*"))) == 1
    after = measured(train(data, tmp_path / "run", "validate", "--ckpt_path", str(tmp_path / "run" / "last.ckpt")))
    assert {name: facts["last"][name] for name in after} == pytest.approx(after, rel=1e-6)
    one, two = (measured(train(data, tmp_path / "run", "validate", *words)) for words in ([], TWO))
    assert set(one) == {"val_loss", "val_auroc", "val_precision_at_5"}
    assert two == pytest.approx(one, rel=1e-6)
    train(data, tmp_path / "run", "predict", *TWO)
    embeddings = read_embeddings(tmp_path / "run" / "predictions")
    assert embeddings.image_id.tolist() == [f"image-{row:03d}" for row in range(33)]
    assert len(embeddings.of_split("validate")) == 17
    with pytest.raises(EmptySplit):
        embeddings.of_split("other")


KILLED = """
import os, signal, sys
from chextriev.cli import main
from chextriev.train.encoder_module import EncoderModule
step, calls = EncoderModule.training_step, []
def die(module, batch, index):
    calls.append(index)
    if len(calls) == 5:  # in the second of three epochs of three steps
        os.kill(os.getpid(), signal.SIGKILL)
    return step(module, batch, index)
EncoderModule.training_step = die
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("interval", ["1.0", "0.34"])
def test_a_killed_run_goes_on_to_the_same_weights(data: Path, tmp_path: Path, interval: str) -> None:
    words = ("--trainer.max_epochs", "3", "--trainer.val_check_interval", interval)
    command = train(data, tmp_path / "unbroken", "fit", *words).args
    command[command.index(str(tmp_path / "unbroken"))] = str(tmp_path / "run")
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, *command[3:]], capture_output=True, check=False, env=ONE_THREAD
    )
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "run" / "manifest.json").exists()
    subprocess.run(command, capture_output=True, check=True, env=ONE_THREAD)
    for name in ("last.ckpt", "best.ckpt"):
        unbroken, resumed = (
            torch.load(tmp_path / run / name, weights_only=True)["state_dict"] for run in ("unbroken", "run")
        )
        assert all(torch.equal(tensor, resumed[key]) for key, tensor in unbroken.items()), name


@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 17])
@pytest.mark.parametrize("seed", [None, 3])
def test_processes_share_every_position_in_equal_steps(length: int, seed: int | None) -> None:
    shares = [list(Batches(length, 2, seed=seed, share=Share(rank, 3))) for rank in range(3)]
    assert {len(steps) for steps in shares} == {-(-length // 6)}
    assert {len(Batches(length, 2, share=Share(rank, 3))) for rank in range(3)} == {-(-length // 6)}
    dealt = [position for steps in shares for batch in steps for position in batch]
    assert set(dealt) == set(range(length))
    assert len(dealt) - length <= 2  # only a process without a position repeats one


def test_gathered_rows_stand_once_and_in_order() -> None:
    gathered = gather_rows({"row": torch.tensor([7, 3, 7]), "score": torch.tensor([0.7, 0.3, 0.7])})
    assert gathered["row"].tolist() == [3, 7]
    torch.testing.assert_close(gathered["score"], torch.tensor([0.3, 0.7]))
