"""Every engine of a bundle over one data set: how well it retrieves, how fast it is, and how far it is from PyTorch.

The folder of results holds `engines.json`, `engines.md`, `quality-against-speed.svg`, `quarantine.csv` and a manifest
of kind "engine comparison" over them; and for each engine a folder with three artefacts: `embeddings`, `evaluation` and
`speed`. A run may be killed at any moment: the next one keeps what is whole and of the same engine files, study table,
split, versions and machine. One run at a time writes to a folder.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import chextriev
from chextriev.artifacts import MANIFEST, Recipe, seal, write_text
from chextriev.bundle import CARD_FILE, REFERENCE, EncoderBundle, open_bundle
from chextriev.embedding_set import EmbeddingSet
from chextriev.encoder import Encoder, open_encoder
from chextriev.errors import (
    CountMismatch,
    InvalidSetting,
    InvalidValue,
    MissingDependency,
    OtherMachine,
    UnknownEngine,
)
from chextriev.eval.engine_comparison import EngineComparison, EngineResult
from chextriev.eval.engine_embeddings import QUARANTINE_FILE, Streamed, embed_split
from chextriev.eval.engine_identity import (
    DISTRIBUTIONS,
    OTHERS,
    Subject,
    device_of,
    engine_files,
    engine_recipe,
    installed,
)
from chextriev.eval.engine_picture import draw_engines
from chextriev.eval.engine_speed import SpeedSettings, measure_or_reuse
from chextriev.eval.engine_table import render_engines
from chextriev.eval.gate import Judgement, judge_engine
from chextriev.eval.results_folder import claimed
from chextriev.eval.run import check_vectors
from chextriev.eval.store import evaluate_or_reuse
from chextriev.machine import describe_machine
from chextriev.refusals import write_refusals
from chextriev.study_table import StudyTable

KIND = "engine comparison"
JSON_FILE, TABLE_FILE, PICTURE_FILE = "engines.json", "engines.md", "quality-against-speed.svg"
LOCK_FILE = ".engines.lock"

DEVICES = ("cpu", "cuda")
CANNOT_RUN = (MissingDependency, OtherMachine, InvalidSetting, UnknownEngine)
"""What opening an engine raises where this machine lacks something; a damaged file is not among them."""


@dataclass(frozen=True)
class EnginesSettings:
    """engines: names; None is all of the bundle. The reference, eager PyTorch in float32, always runs.

    device: of engines that can choose. shard_rows: radiographs that are lost at most when a run is killed.
    """

    engines: tuple[str, ...] | None = None
    device: str = "cpu"
    split: str = "test"
    shard_rows: int = 64
    speed: SpeedSettings = field(default_factory=SpeedSettings)

    def __post_init__(self) -> None:
        if self.device not in DEVICES:
            raise InvalidSetting(f"eval engines: device {self.device!r}; choose one of {', '.join(DEVICES)}")
        if self.shard_rows < 1:
            raise InvalidSetting(f"eval engines: shard_rows is {self.shard_rows}; at least 1 is needed")


def compare_engines(
    directory: str | Path, table: StudyTable, out: str | Path, settings: EnginesSettings | None = None
) -> EngineComparison:
    """Run the engines of the bundle at `directory` over a split of the table and write the folder `out`.

    An engine that cannot run here, or whose embeddings have no cosine, is listed with the reason; where that is the
    reference, its error is raised. Raises UnknownEngine, EmptySplit, InvalidValue where no radiograph of the split has
    a finding, and OutputExists where `out` holds something else or another run is writing to it.
    """
    settings, out, bundle = settings or EnginesSettings(), Path(out), open_bundle(directory)
    bundle.check_embeds()
    names = dict.fromkeys((REFERENCE, *(settings.engines or bundle.card.engines)))
    for name in names:
        bundle.engine(name)
    split = table.of_split(settings.split)
    if not (split.image_findings == 1).any():
        raise InvalidValue(
            f"no radiograph of split {settings.split!r} is known to have a finding; there is nothing to ask for"
        )
    with claimed(out, LOCK_FILE, holds=KIND):
        trial = _Trial(bundle, split, out, settings)
        for name in names:
            trial.run(name)
        comparison = trial.comparison()
        _write(out, comparison, trial.streamed)
    return comparison


class _Trial:
    """The engines of one run, one after another; the first is the reference. streamed: of the reference."""

    streamed: Streamed

    def __init__(self, bundle: EncoderBundle, split: StudyTable, out: Path, settings: EnginesSettings) -> None:
        self._bundle, self._split, self._out, self._settings = bundle, split, out, settings
        self._results: list[EngineResult] = []
        self._left_out: dict[str, str] = {}

    def run(self, name: str) -> None:
        """Embed, evaluate and time one engine, or note why it cannot run."""
        device = device_of(name, self._settings.device)
        try:
            encoder = open_encoder(self._bundle, engine=name, device=device)
        except CANNOT_RUN as error:
            if name == REFERENCE:
                raise
            self._left_out[name] = str(error)
            return
        recipe = engine_recipe(encoder, self._split, self._settings.split)
        subject = Subject(encoder, device, self._split, self._out / name, recipe)
        streamed = embed_split(subject, shard_rows=self._settings.shard_rows)
        if name == REFERENCE:
            self.streamed = streamed
        try:
            check_vectors(streamed.embeddings)
        except InvalidValue as error:  # as float16 gives that has overflowed
            if name == REFERENCE:
                raise
            self._left_out[name] = str(error)
            return
        self._results.append(self._measure(subject, streamed))

    def comparison(self) -> EngineComparison:
        """What was found."""
        return EngineComparison(self._about(), tuple(self._results), self._left_out)

    def _measure(self, subject: Subject, streamed: Streamed) -> EngineResult:
        name, encoder = subject.encoder.engine, subject.encoder
        judgement = None if name == REFERENCE else self._judge(name, streamed.embeddings)
        evaluation, known = evaluate_or_reuse(
            streamed.embeddings, subject.folder / "evaluation", split=self._settings.split
        )
        refused = [refusal.row for refusal in streamed.refusals]
        readable = np.setdiff1d(np.arange(len(self._split)), refused)
        speed, timed = measure_or_reuse(subject, readable, self._settings.speed)
        return EngineResult(
            name=name,
            device=subject.device,
            arithmetic=encoder.arithmetic,
            verdict=_verdict(encoder),
            files=engine_files(encoder),
            evaluation=evaluation,
            judgement=judgement,
            radiographs=len(streamed.embeddings),
            seconds=streamed.seconds,
            speed=speed,
            reused=streamed.reused and known and timed,
        )

    def _judge(self, name: str, embeddings: EmbeddingSet) -> Judgement:
        reference = self.streamed.embeddings
        if reference.image_id.tolist() != embeddings.image_id.tolist():
            raise CountMismatch(
                f"{name} embedded {len(embeddings)} radiographs, {REFERENCE} {len(reference)}, not all the same:"
                f" images changed in between; remove {self._out / name} and {self._out / REFERENCE} and run again"
            )
        return judge_engine(reference, embeddings, precision=name.split("-")[1])

    def _about(self) -> dict[str, Any]:
        card, overall = self._bundle.card, self._results[0].evaluation.overall
        packages = [package for names in DISTRIBUTIONS.values() for package in names]
        return {
            "settings": asdict(self._settings),
            "protocol": self._results[0].evaluation.protocol.as_dict(),
            "machine": describe_machine(),
            "versions": {"chextriev": chextriev.__version__, **installed((*packages, *OTHERS))},
            "bundle": {
                "system": card.system,
                "backbone": card.backbone,
                "embedding_width": card.embedding_width,
                "encoder": self._bundle.digest,
                "manifest": self._bundle.manifest.digest,
                "card": self._bundle.manifest.files[CARD_FILE]["sha256"],
            },
            "data": {
                "study_table": self._split.digest,
                "split": self._settings.split,
                "radiographs": len(self._split),
                "embedded": len(self.streamed.embeddings),
                "quarantined": len(self.streamed.refusals),
                "queries": overall.n_queries,
                "patients_of_queries": overall.n_patients,
            },
        }


def _verdict(encoder: Encoder) -> str:
    """What the card says of this engine on this kind of machine."""
    if encoder.engine == REFERENCE:
        return "reference"
    found = (
        verdict.status
        for verdict in encoder.bundle.card.verdicts
        if (verdict.engine, verdict.arithmetic) == (encoder.engine, encoder.arithmetic)
    )
    return next(found, "not measured")


def _write(out: Path, comparison: EngineComparison, streamed: Streamed) -> None:
    """Write the reports; the manifest, which vouches for them, goes first and comes last."""
    (out / MANIFEST).unlink(missing_ok=True)
    text = json.dumps(comparison.as_dict(), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(out / JSON_FILE, text + "\n")
    write_text(out / TABLE_FILE, render_engines(comparison))
    write_text(out / PICTURE_FILE, draw_engines(comparison))
    write_refusals(streamed.refusals, out / QUARANTINE_FILE)
    about = comparison.about
    parents = {"encoder": about["bundle"]["encoder"], "study table": about["data"]["study_table"]}
    names = (JSON_FILE, TABLE_FILE, PICTURE_FILE, QUARANTINE_FILE)
    seal(out, KIND, Recipe(about["settings"], parents), names=names)
