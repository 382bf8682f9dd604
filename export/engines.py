"""Engines of a bundle: made, compared with fp32 PyTorch on the validation split, and kept if they pass the gate."""

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from chextriev.artifacts import publishing, seal
from chextriev.bundle import (
    CARD_FILE,
    DEFAULT,
    ENGINES,
    KIND,
    REFERENCE,
    BundleCard,
    EncoderBundle,
    EngineRecord,
    Status,
    Verdict,
    open_bundle,
)
from chextriev.embedding_set import EmbeddingSet
from chextriev.encoder import Encoder, open_encoder
from chextriev.errors import CountMismatch, UnknownEngine
from chextriev.eval.gate import Judgement, judge_engine
from chextriev.eval.localizer_gate import judge_localizer
from chextriev.export.embed import encode_table
from chextriev.export.make_engines import EngineMaker, Files
from chextriev.export.quantize import CalibrationSettings
from chextriev.export.tensorrt_runner import has_plan
from chextriev.localizer import EngineLocalizer
from chextriev.located_table import LocatedTable, locate_table
from chextriev.machine import describe_machine
from chextriev.study_table import StudyTable

SPLIT = "validate"


@dataclass(frozen=True)
class ProofSettings:
    """device: what executes the engines. force: keep one that fails, as unproven. remake: make engines anew that are
    there already; otherwise they are only measured."""

    device: str = "cpu"
    force: bool = False
    remake: bool = False
    calibration: CalibrationSettings = field(default_factory=CalibrationSettings)


def prove_engines(
    directory: str | Path, table: StudyTable, names: Sequence[str], settings: ProofSettings | None = None
) -> list[Verdict]:
    """Make engines, judge each on the validation split and publish the bundle with those that pass.

    Encoders are judged by what they retrieve, localizers by their boxes.
    The bundle's other files and its identity stay. The card gets a verdict for each engine on this kind of machine,
    also for one that was kept out. Ranges of integers are calibrated on the train split. An engine that is in the
    bundle and proven on another machine stays in it, whatever the verdict here; made anew as other files, it is proven
    nowhere else.
    """
    settings, directory = settings or ProofSettings(), Path(directory)
    for name in names:
        if name not in ENGINES or name == REFERENCE:
            raise UnknownEngine(name, [engine for engine in ENGINES if engine != REFERENCE])
    bundle = open_bundle(directory)
    with publishing(directory, KIND) as scratch:
        for name in bundle.manifest.files:
            (scratch / name).parent.mkdir(parents=True, exist_ok=True)
            (scratch / name).write_bytes(bundle.read(name))
        proof = _Proof(_Workshop(scratch, bundle), table, settings)
        return [proof.prove(name) for name in dict.fromkeys(names)]


class _Workshop:
    """A bundle that is being changed, in a folder of its own."""

    def __init__(self, folder: Path, bundle: EncoderBundle) -> None:
        self._folder, self._manifest = folder, bundle.manifest
        self.bundle = bundle

    def save(self, card: BundleCard, files: Files) -> EncoderBundle:
        """Write the card and files, and drop files that no engine uses."""
        for name, content in files.items():
            (self._folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self._folder / name).write_bytes(content)
        used = {name for record in card.engines.values() for name in _files_of(record)} | {CARD_FILE}
        for name in set(self.bundle.manifest.files) - used:
            (self._folder / name).unlink(missing_ok=True)
        for folder in [path for path in self._folder.iterdir() if path.is_dir()]:
            if not any(path.is_file() for path in folder.rglob("*")):
                shutil.rmtree(folder)
        (self._folder / CARD_FILE).write_text(card.to_json())
        seal(self._folder, KIND, self._manifest.recipe, self._manifest.facts)
        self.bundle = open_bundle(self._folder)
        return self.bundle


class _Proof:
    """One run of the gate over engines of one bundle."""

    def __init__(self, workshop: _Workshop, table: StudyTable, settings: ProofSettings) -> None:
        self._workshop, self._settings, self._table = workshop, settings, table
        self._split = table.of_split(SPLIT)
        reference = open_encoder(workshop.bundle, engine=REFERENCE, device=settings.device)
        self._reference = _answers(reference, self._split)

    def prove(self, name: str) -> Verdict:
        """Make the engine unless it is there, judge it, and keep it or leave it out."""
        before = self._workshop.bundle
        maker = EngineMaker(name, before, self._table, self._settings.calibration)
        present = before.card.engines.get(name)
        former = {} if present is None else {file: before.read(file) for file in _files_of(present)}
        for record, files in self._attempts(maker, present):
            encoder, judgement = self._judge(name, record, files)
            verdict = self._verdict(encoder, judgement, maker)
            if judgement.passed:
                break
        card = before.card
        remade = _remade(name, before, self._workshop.bundle)
        if remade and verdict.status == "failed":  # the engine that was there stays, with what is known of it
            self._workshop.save(card, former)
            return replace(
                verdict, remarks=[*verdict.remarks, "the engine made anew was dropped; the former one stays"]
            )
        if remade:
            card = replace(card, verdicts=[known for known in card.verdicts if known.engine != name])
        elsewhere = any(
            (known.engine, known.status) == (name, "proven") and known.arithmetic != verdict.arithmetic
            for known in card.verdicts
        )
        source = name == DEFAULT  # other engines are made from it; serving refuses it all the same
        kept = record if verdict.status != "failed" or elsewhere or source else None
        self._workshop.save(card.with_engine(name, kept).with_verdict(verdict), {})
        return verdict

    def _attempts(self, maker: EngineMaker, present: EngineRecord | None) -> Iterable[tuple[EngineRecord, Files]]:
        """(record, new files) of an engine that is there, or of each form in which it can be made."""
        if present is None or (self._settings.remake and maker.name != DEFAULT):
            return maker.attempts()
        if maker.name.startswith("tensorrt") and not has_plan(present):
            return [maker.planned(present)]
        return [(present, {})]

    def _judge(self, name: str, record: EngineRecord, files: Files) -> tuple[Encoder, Judgement]:
        bundle = self._workshop.save(self._workshop.bundle.card.with_engine(name, record), files)
        device = "cuda" if name.startswith("tensorrt") else self._settings.device
        encoder = open_encoder(bundle, engine=name, device=device)
        return encoder, _judged(self._reference, _answers(encoder, self._split), precision=name.split("-")[1])

    def _verdict(self, encoder: Encoder, judgement: Judgement, maker: EngineMaker) -> Verdict:
        name, device = maker.name, self._settings.device
        option = "" if device == "cpu" or name.startswith("tensorrt") else f" --device {device}"
        failed: Status = "unproven" if self._settings.force else "failed"
        return Verdict(
            engine=name,
            status="proven" if judgement.passed else failed,
            arithmetic=encoder.arithmetic,
            machine=describe_machine(),
            command=f"chextriev export engines BUNDLE DATA --engines {name}{option}",
            budget=judgement.budget_as_dict(),
            measured=dict(judgement.measured),
            data={
                "study table": self._table.digest,
                "split": SPLIT,
                "radiographs": _count(self._reference),
                "unreadable": len(self._split) - _count(self._reference),
            },
            remarks=[*judgement.remarks, *judgement.failures],
            worst_layers=maker.worst_layers,
            files=self._workshop.bundle.engine_files(name),
        )


Answers = EmbeddingSet | LocatedTable


def _answers(encoder: Encoder, table: StudyTable) -> Answers:
    """What an engine says of every radiograph that can be read: embeddings, or a localizer's boxes."""
    return locate_table(table, EngineLocalizer(encoder)) if encoder.bundle.locates else encode_table(encoder, table)


def _judged(reference: Answers, engine: Answers, *, precision: str) -> Judgement:
    if isinstance(reference, LocatedTable) and isinstance(engine, LocatedTable):
        return judge_localizer(reference, engine, precision=precision)
    if isinstance(reference, EmbeddingSet) and isinstance(engine, EmbeddingSet):
        return judge_engine(reference, engine, precision=precision)
    raise CountMismatch("embeddings on one side and boxes on the other do not compare; use engines of one bundle")


def _count(answers: Answers) -> int:
    return len(answers.table) if isinstance(answers, LocatedTable) else len(answers)


def _remade(name: str, before: EncoderBundle, after: EncoderBundle) -> bool:
    """Whether an engine's files are others than they were, of which verdicts on other machines say nothing."""
    record = before.card.engines.get(name)
    if record is None:
        return False
    return any(before.manifest.files[file] != after.manifest.files.get(file) for file in _files_of(record))


def _files_of(record: EngineRecord) -> list[str]:
    plans = [value for plan in record.plans.values() for key, value in plan.items() if key in record.files]
    return [*record.files.values(), *plans]
