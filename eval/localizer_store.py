"""Evaluations of localizers on disk: an artefact of kind "localizer evaluation".

`localizer.json` (all numbers), `localizer.md` (the same for people) and a manifest whose parents are the localizer and
the study table. No picture: that would hold radiographs.
"""

import json
from dataclasses import asdict
from pathlib import Path

from chextriev.artifacts import Manifest, Recipe, publishing, seal
from chextriev.eval.localizer import LocalizerEvaluation
from chextriev.eval.localizer_text import render_localizer

KIND = "localizer evaluation"
JSON_FILE = "localizer.json"
MARKDOWN_FILE = "localizer.md"


def write_localizer_evaluation(out: str | Path, evaluation: LocalizerEvaluation) -> Manifest:
    """Publish an evaluation at `out`, whole or not at all; OutputExists where something else is there."""
    settings = {"split": evaluation.split, "source": evaluation.source, "interval": asdict(evaluation.interval)}
    with publishing(Path(out), KIND) as scratch:
        text = json.dumps(evaluation.as_dict(), indent=2, ensure_ascii=False, allow_nan=False)
        (scratch / JSON_FILE).write_text(text + "\n")
        (scratch / MARKDOWN_FILE).write_text(render_localizer(evaluation))
        return seal(scratch, KIND, Recipe(settings, evaluation.parents))
