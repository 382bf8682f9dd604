"""The training configuration of one trial: a base, what is searched, and what a search needs of every run."""

from collections.abc import Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any

from chextriev.artifacts import digest_of
from chextriev.errors import InvalidSetting
from chextriev.systems import find_system, new_system
from chextriev.train.encoder_module import EncoderModule
from chextriev.train.run_files import METHOD, PLACES
from chextriev.train.search_space import SYSTEM, SearchSpace
from chextriev.train.settings_tree import Tree, find, place, without

_OWN = ("out", "ckpt_path", "best.dirpath", "best.filename", "trainer.fast_dev_run")


@dataclass(frozen=True)
class TrialSettings:
    """What all trials of a search share.

    base: a training configuration with its data. space: what is laid over it.
    InvalidSetting where the base sets what the search itself must, or a system does not accept the space.
    """

    base: Tree
    space: SearchSpace

    def __post_init__(self) -> None:
        for name in _OWN:
            if find(self.base, name) is not None:
                raise InvalidSetting(f"{name} is set to {find(self.base, name)!r}; a search sets it for each trial")
        for name in ("data.features", "data.table"):
            if find(self.base, name) is None:
                raise InvalidSetting(f"{name} is not set; add --{name} DIRECTORY")
        for name, domain in self.space.space.items():
            for value in domain.extremes:
                self._check(name, value)

    def configuration(self, parameters: Mapping[str, Any]) -> Tree:
        """The training configuration of the trial with these parameters (dotted name -> value).

        Settings of the system make a system of one's own, named after the base and a digest of them.
        """
        tree, own = self.base, {}
        for name, value in parameters.items():
            if name.startswith(SYSTEM):
                own[name.removeprefix(SYSTEM)] = value
            else:
                tree = place(tree, name, value)
        if own:
            tree = place(tree, "model.system", _own_system(find(tree, "model.system"), own))
        for callback in ("best", "early_stopping"):
            tree = place(place(tree, f"{callback}.monitor", self.space.metric), f"{callback}.mode", "max")
        return _in_one_process(tree)

    def _check(self, name: str, value: Any) -> None:
        configuration = self.configuration({name: value})
        try:
            if name.startswith(SYSTEM):
                new_system(find(configuration, "model.system"))
        except InvalidSetting as error:
            raise InvalidSetting(f"{name} = {value!r} is not possible: {error}") from error


def trial_name(configuration: Tree) -> str:
    """A short digest of the settings, without places: equal trials have equal names."""
    return digest_of({"method": METHOD, **without(configuration, PLACES)})[:12]


def _own_system(base: Any, own: Mapping[str, Any]) -> Tree:
    if base is None:
        base = signature(EncoderModule).parameters["system"].default
    start = base if isinstance(base, dict) else {"name": find_system(str(base)).name, "base": base}
    return {**start, **own, "name": f"{start.get('name', 'system')}-{digest_of(dict(own))[:8]}"}


def _in_one_process(tree: Tree) -> Tree:
    """One device where nothing is said; InvalidSetting where a trial would start further processes."""
    devices, nodes = find(tree, "trainer.devices"), find(tree, "trainer.num_nodes")
    one = devices in (None, 1, "1") or (isinstance(devices, list) and len(devices) == 1)
    if not one or nodes not in (None, 1):
        raise InvalidSetting(
            f"trainer.devices is {devices or 1!r} and trainer.num_nodes {nodes or 1!r}; a search trains in one process,"
            " with --trainer.devices 1 (or [1] for the second device)"
        )
    return tree if devices is not None else place(tree, "trainer.devices", 1)
