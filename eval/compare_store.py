"""Comparisons on disk: an artefact of kind "comparison".

`compare.json` (all numbers), `compare.md` and `compare.svg` (what was asked to be shown) and a manifest whose parents
are the evaluations.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from chextriev.artifacts import Manifest, Recipe, publishing, seal
from chextriev.eval.compare import Comparison
from chextriev.eval.compare_picture import draw_compare
from chextriev.eval.compare_text import Shown, render_compare

KIND = "comparison"
JSON_FILE = "compare.json"
MARKDOWN_FILE = "compare.md"
PICTURE_FILE = "compare.svg"


def write_comparison(
    out: str | Path, comparison: Comparison, *, evaluations: Mapping[str, str], shown: Shown | None = None
) -> Manifest:
    """Publish a comparison at `out`, whole or not at all. evaluations: their digests by the name of the system."""
    shown = shown or Shown()
    recipe = Recipe({"significance": asdict(comparison.settings), "shown": asdict(shown)}, evaluations)
    with publishing(Path(out), KIND) as scratch:
        content = json.dumps(comparison.as_dict(), indent=2, ensure_ascii=False, allow_nan=False)
        (scratch / JSON_FILE).write_text(content + "\n", encoding="utf-8")
        (scratch / MARKDOWN_FILE).write_text(render_compare(comparison, shown), encoding="utf-8")
        (scratch / PICTURE_FILE).write_text(draw_compare(comparison, shown), encoding="utf-8")
        return seal(scratch, KIND, recipe)
