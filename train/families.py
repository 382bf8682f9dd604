"""Which Lightning module and data train a system: one pair for those that embed, one for the localizer."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chextriev.errors import ChextrievError, InvalidSetting
from chextriev.systems import LocalizerSpec, find_system, new_system
from chextriev.train.encoder_module import EncoderModule
from chextriev.train.feature_data import FeatureData
from chextriev.train.localizer_data import LocalizerData
from chextriev.train.localizer_module import LocalizerModule
from chextriev.train.settings_tree import find, parse_yaml, read_configurations


@dataclass(frozen=True)
class Family:
    """What Lightning's command line is built around; the module says what makes a checkpoint the best."""

    module: type[EncoderModule | LocalizerModule]
    data: type[FeatureData]


ENCODERS = Family(EncoderModule, FeatureData)
LOCALIZERS = Family(LocalizerModule, LocalizerData)


def find_family(arguments: Sequence[str]) -> Family:
    """The family of the system that these words of `chextriev train` name, in a configuration or by themselves.

    Words that name none, or none that there is, are for the command line itself to refuse.
    """
    system: Any = None
    words = list(arguments)
    for place, word in enumerate(words):
        name, given, value = word.partition("=")
        text = value if given else (words[place + 1] if place + 1 < len(words) else "")
        try:
            if name == "--config":
                system = find(read_configurations([Path(text)]), "model.system") or system
            elif name in ("--model", "--model.system"):
                stated = parse_yaml(text, where=name)
                system = stated if name == "--model.system" else find({"model": stated}, "model.system") or system
        except (ChextrievError, OSError):
            continue
    family = LOCALIZERS if _is_localizer(system) else ENCODERS
    if family is LOCALIZERS and "predict" in words[:1]:
        raise InvalidSetting("a localizer embeds nothing, so it has no predictions; `chextriev train test` measures it")
    return family


def _is_localizer(system: Any) -> bool:
    try:
        spec = find_system(system) if isinstance(system, str) else new_system(system)
    except ChextrievError:
        return False
    return isinstance(spec, LocalizerSpec)
