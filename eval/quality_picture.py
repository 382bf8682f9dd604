"""One radiograph and its copies, each with what the quality check says of it."""

from collections.abc import Sequence
from pathlib import Path

from chextriev.eval.quality_copies import copies
from chextriev.pictures import jpeg_base64, read_template
from chextriev.quality import Quality, check_quality
from chextriev.quality_model import QualityModel
from chextriev.radiograph import Radiograph

SHOWN = (
    *("as it is", "black frame of 15 %", "16 grey levels of 256", "64 pixels wide", "oblique black corners"),
    *("inverted", "turned by 90", "turned by 180", "turned by 270", "inverted, turned by 90"),
    *("cut left, 20% of the lungs", "cut top, 20% of the lungs", "cut right, 20% of the lungs"),
    *("cut bottom, 20% of the lungs", "left and right exchanged", "stretched 4 to 1", "4 grey levels of 256"),
    *("noise", "its right half only", "middle quarter only"),
)
_COLUMNS = 5
_TILE = (184, 216)
_MARGIN, _TOP = 16, 42
_LONGEST = 200
_FIT, _UNFIT = "#2c6e49", "#a4243b"


def draw_quality(
    radiograph: Radiograph, path: Path, *, title: str, shown: Sequence[str] = SHOWN, model: QualityModel | None = None
) -> None:
    """Write an SVG picture; title says what the radiograph is."""
    made = {copy.name: copy.make(radiograph)[0] for copy in copies() if copy.name in shown}
    tiles = []
    for number, name in enumerate(shown):
        quality = check_quality(made[name], model=model)
        row, column = divmod(number, _COLUMNS)
        tiles.append(
            {
                "x": _MARGIN + column * _TILE[0],
                "y": _TOP + row * _TILE[1],
                "jpeg": jpeg_base64(made[name], _LONGEST),
                "name": name,
                "verdict": _verdict(quality),
                "colour": _FIT if quality.fit else _UNFIT,
            }
        )
    rows = -(-len(tiles) // _COLUMNS)
    size = {"width": 2 * _MARGIN + _COLUMNS * _TILE[0], "height": _TOP + rows * _TILE[1] + _MARGIN}
    path.write_text(
        read_template("chextriev.eval", "templates/quality.svg.j2").render(title=title, tiles=tiles, **size)
    )


def _verdict(quality: Quality) -> str:
    said = ", ".join(reason.kind for reason in quality.reasons) or "passes"
    return f"{quality.score:.2f}: {said}"
