"""Training as whole processes: two that share the work, and one that is killed."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch

from chextriev.cli import main
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


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As the processes have."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def words_of(data: Path, out: Path, action: str, *words: str) -> list[str]:
    common = ["--model.system", SMALL, "--data.batch_size", "4", *data_words(data), *QUIET, "--out", str(out)]
    fit = ["--trainer.max_epochs", "2"] if action == "fit" else []
    return ["train", action, *common, *fit, "--json", *words]


def by_two(data: Path, out: Path, action: str, *words: str) -> dict[str, Any]:
    """The JSON that is the output of two processes."""
    command = [sys.executable, "-m", "chextriev", *words_of(data, out, action, *TWO, *words)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=ONE_THREAD)
    content: dict[str, Any] = json.loads(done.stdout)
    return content


def by_one(data: Path, out: Path, action: str, *words: str) -> dict[str, Any]:
    """That of this process, which has imported all that it takes."""
    printed = StringIO()
    with redirect_stdout(printed):
        assert main(words_of(data, out, action, *words)) == 0
    content: dict[str, Any] = json.loads(printed.getvalue())
    return content


@pytest.mark.slow  # three times two processes, each of which imports PyTorch and Lightning
@pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path.")  # Lightning's, of a measurement
def test_two_processes_measure_what_one_does(data: Path, tmp_path: Path) -> None:
    facts = by_two(data, tmp_path / "run", "fit", "--logger", "tensorboard")
    assert (facts["epochs"], facts["steps"]) == (2, 4)  # 12 radiographs, 4 a process, 2 steps an epoch
    assert len(list((tmp_path / "run").glob("events.out.tfevents.*"))) == 1
    after = by_one(data, tmp_path / "run", "validate", "--ckpt_path", str(tmp_path / "run" / "last.ckpt"))
    assert {name: facts["last"][name] for name in after} == pytest.approx(after, rel=1e-6)
    one, two = (validate(data, tmp_path / "run", "validate") for validate in (by_one, by_two))
    assert set(one) == {"val_loss", "val_auroc", "val_precision_at_5"}
    assert two == pytest.approx(one, rel=1e-6)


@pytest.mark.slow
def test_two_processes_embed_every_radiograph_once(data: Path, tmp_path: Path) -> None:
    by_one(data, tmp_path / "run", "fit")
    by_two(data, tmp_path / "run", "predict")
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


@pytest.mark.parametrize("interval", [pytest.param("1.0", marks=pytest.mark.slow), "0.34"])
def test_a_killed_run_goes_on_to_the_same_weights(data: Path, tmp_path: Path, interval: str) -> None:
    words = ("--trainer.max_epochs", "3", "--trainer.val_check_interval", interval)
    by_one(data, tmp_path / "unbroken", "fit", *words)
    command = [sys.executable, "-c", KILLED, *words_of(data, tmp_path / "run", "fit", *words)]
    killed = subprocess.run(command, capture_output=True, check=False, env=ONE_THREAD)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "run" / "manifest.json").exists()
    by_one(data, tmp_path / "run", "fit", *words)
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
