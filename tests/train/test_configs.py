"""The shipped configurations train as published: rates, batches, schedules and stops, pinned here a second time."""

import inspect
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from chextriev.systems import SYSTEMS
from chextriev.train.configs import config_path
from chextriev.train.encoder_module import EncoderModule
from chextriev.train.feature_data import FeatureData


@dataclass(frozen=True)
class Published:
    """batch: radiographs at a time; step: radiographs an update, over all devices. plateau: factor and patience."""

    learning_rate: float
    step: int
    weight_decay: float = 0.0
    plateau: tuple[float, int] | None = (0.1, 4)
    batch: int = 16


VARIANT = Published(1e-4, step=16 * 8 * 2)
PUBLISHED = {
    **dict.fromkeys(("v0-global", "v0-local", "v1", "v2", "v3", "v4", "v4-local", "v5", "v6", "v6-e2e"), VARIANT),
    "global-cnn": Published(5e-4, step=16 * 4 * 2, weight_decay=1e-5, plateau=(0.5, 3)),
    "anaxnet": Published(1e-4, step=32 * 4 * 2, plateau=None, batch=32),
    "ath": Published(1e-3, step=24 * 4, batch=24),
}


def effective(settings: dict[str, Any], kind: type, name: str) -> Any:
    """What a configuration states, or else the default of the class that it configures."""
    return settings[name] if name in settings else inspect.signature(kind).parameters[name].default


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_configuration_trains_as_published(system: str) -> None:
    wanted, content = PUBLISHED[system], yaml.safe_load(config_path(system).read_text())
    model, data, trainer = content["model"], content["data"], content["trainer"]
    rate, decay, factor, patience = (
        effective(model, EncoderModule, name)
        for name in ("learning_rate", "weight_decay", "plateau_factor", "plateau_patience")
    )
    assert (rate, decay) == (wanted.learning_rate, wanted.weight_decay)
    assert (None if factor is None else (factor, patience)) == wanted.plateau
    batch = effective(data, FeatureData, "batch_size")
    assert batch == wanted.batch
    assert batch * trainer["accumulate_grad_batches"] * trainer["devices"] == wanted.step
    assert (trainer["max_epochs"], trainer["gradient_clip_val"], trainer["val_check_interval"]) == (30, 0.5, 0.5)
    assert content["early_stopping"] == {"patience": 4}
