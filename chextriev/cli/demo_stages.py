"""The stages of the demo: which function of which part is called with what, and one sentence of outcome for each."""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from chextriev.artifacts import find_current, read_manifest, write_text
from chextriev.embedding_set import EmbeddingSet, read_embeddings
from chextriev.errors import DigestMismatch, OutputExists, ServerNotStarted
from chextriev.machine import describe_machine
from chextriev.study_table import KIND as STUDY_KIND
from chextriev.study_table import SPLITS, StudyTable, read_study_table

if TYPE_CHECKING:
    from chextriev.eval.adjacency_picture import RegionLinks
    from chextriev.eval.evaluation import Evaluation
    from chextriev.serving.local_server import LocalServer
    from chextriev.train.features import RegionFeatures

Result = TypeVar("Result")

TRAINING = {  # the published schedule is for 162,000 radiographs; a few hundred want larger steps and fewer epochs
    "--model.learning_rate": "3e-4",
    "--data.batch_size": "32",
    "--trainer.max_epochs": "8",
    "--trainer.accumulate_grad_batches": "1",
    "--trainer.val_check_interval": "1.0",
}
CASES = 6
SYNTHETIC = "Synthetic phantoms, not patients: the numbers show that the parts work together, not how well."
_PARTS = {
    "study": "study table",
    "features": "region features",
    "run": "training run",
    "bundle": "encoder bundle",
    "index": "index",
}


@dataclass(frozen=True)
class DemoSettings:
    """What the demo runs on."""

    out: Path
    data: Path | None
    patients: int
    seed: int
    backbone: str
    weights: str | None


class Demo:
    """The stages; each leaves a directory in OUT that the next one reads."""

    def __init__(self, settings: DemoSettings) -> None:
        self.settings, self.out = settings, settings.out
        self.report, self.results = settings.out / "report.html", settings.out / "results.json"
        self.table, self.numbers = "", dict[str, Any]()

    def prepare(self) -> tuple[str, bool]:
        """Radiographs (generated unless given) -> study table."""
        from chextriev.train.prepare import prepare

        for old in (self.report, self.results):  # they speak of a finished job, which this one is not yet
            old.unlink(missing_ok=True)
        patients, seed = self.settings.patients, self.settings.seed
        source = self.settings.data or synthetic_study(self.out / "phantoms", patients=patients, seed=seed)
        prepared = prepare(source, self.out / "study")
        return prepared.counts, prepared.reused

    def features(self) -> tuple[str, bool]:
        """Study table -> frozen features of 18 regions a radiograph."""
        from chextriev.export.onnx_runner import OnnxExtractor
        from chextriev.train.backbones import load_backbone
        from chextriev.train.feature_store import STORE_FILE
        from chextriev.train.features import DeferredExtractor, compute_features

        table, out = read_study_table(self.out / "study"), self.out / "features"
        backbone = load_backbone(self.settings.backbone, weights=self.settings.weights)
        extractor = DeferredExtractor(backbone, OnnxExtractor.from_backbone)
        facts = _afresh_if_other(out, STORE_FILE, lambda: compute_features(table, out, extractor)).facts
        sentence = f"{facts['radiographs']} x 18 x {backbone.spec.width} by {backbone.spec.name}"
        if facts["quarantined"]:
            sentence += f", {facts['quarantined']} in quarantine"
        return sentence, not facts["computed"]

    def train(self) -> tuple[str, bool]:
        """Features -> a trained v6."""
        from chextriev.train.configs import config_path
        from chextriev.train.fit import run_train
        from chextriev.train.run_files import RECIPE_FILE

        out = self.out / "run"
        words = ["fit", "--config", str(config_path("v6")), "--out", str(out)]
        words += ["--data.features", str(self.out / "features"), "--data.table", str(self.out / "study")]
        words += ["--trainer.enable_model_summary", "false", *(word for pair in TRAINING.items() for word in pair)]
        command = _afresh_if_other(out, RECIPE_FILE, lambda: run_train(words))
        facts = command.manifest.facts
        return f"v6, {facts['epochs']} epochs, best validation AUROC {facts['best_val_auroc']:.3f}", command.reused

    def export(self) -> tuple[str, bool]:
        """Checkpoint -> bundle of two ONNX engines."""
        from chextriev.export.build_bundle import build_bundle

        bundle, reused = build_bundle(self.out / "run", self.out / "bundle", weights=self.settings.weights)
        return f"two ONNX engines within {max(bundle.card.parity.values()):.1e} of PyTorch", reused

    def index(self) -> tuple[str, bool]:
        """Bundle and features -> embeddings -> index."""
        from chextriev.encoder import open_encoder
        from chextriev.export.embed import embed_table
        from chextriev.index.build import build_or_reuse
        from chextriev.train.features import open_features

        encoder, table = open_encoder(self.out / "bundle"), read_study_table(self.out / "study")
        embed_table(encoder, table, self.out / "embeddings", features=open_features(self.out / "features"))
        embeddings = read_embeddings(self.out / "embeddings")
        manifest, reused = _afresh_if_other(
            self.out / "index", "index.faiss", lambda: build_or_reuse(embeddings, self.out / "index")
        )
        sentence = f"{len(embeddings)} embeddings of width {embeddings.vectors.shape[1]}; {manifest.facts['spec']}"
        return sentence, reused

    def query(self) -> tuple[str, bool]:
        """One image file of the test split -> its most similar cases, as a user would ask."""
        from chextriev.encoder import open_encoder
        from chextriev.index.search import open_index

        table = read_study_table(self.out / "study")
        readable = read_embeddings(self.out / "embeddings").of_split("test").image_id
        encoder, index = open_encoder(self.out / "bundle"), open_index(self.out / "index")
        radiograph = table.radiograph(table.row_of(readable[0]))
        begun = time.perf_counter()
        (hits,) = index.search(encoder.encode([radiograph]), 5)
        milliseconds = 1000 * (time.perf_counter() - begun)
        best = f", best cosine {hits[0].score:.3f}" if hits else ""
        return f"{radiograph.image_id} -> {len(hits)} cases of other patients in {milliseconds:.0f} ms{best}", False

    def evaluate(self) -> tuple[str, bool]:
        """Embeddings -> metrics beside chance and the frozen features -> report.html."""
        from chextriev.eval.comparison import comparison_as_dict, render_comparison
        from chextriev.export.embed import pooled_features
        from chextriev.train.features import open_features

        table, features = read_study_table(self.out / "study"), open_features(self.out / "features")
        trained = self._evaluated("evaluation", read_embeddings(self.out / "embeddings"))
        frozen = self._evaluated("evaluation-frozen", pooled_features(table, features))
        rows = [("v6", trained[0]), ("frozen features, mean-pooled", frozen[0])]
        self._write_report(table, rows, links=self._links(table, features))
        self.table, self.numbers = render_comparison(rows), comparison_as_dict(rows)
        write_text(self.results, json.dumps(self._results(table), indent=1, ensure_ascii=False) + "\n")
        return _verdict(trained[0], frozen[0]), trained[1] and frozen[1]

    def serve(self) -> tuple[str, bool]:
        """Bundle and index -> a Triton server of this machine, asked over gRPC as a hospital's program would."""
        from chextriev.encoder import open_encoder
        from chextriev.radiograph_file import RadiographFile
        from chextriev.serving.client import Client
        from chextriev.serving.environment import check_platform

        try:
            check_platform()
        except ServerNotStarted as error:  # of this kind of machine; what the demo has made is whole without it
            return f"left out: {error}", True
        table = read_study_table(self.out / "study")
        row = table.row_of(read_embeddings(self.out / "embeddings").of_split("test").image_id[0])
        query = RadiographFile.from_path(table.image_path(row), table.boxes(row), image_id=str(table.image_id[row]))
        with self._server() as server, Client(server.grpc, index="served") as client:
            hits = client.search(query, k=5)
            milliseconds = 1000 * median(_seconds(lambda: client.search(query, k=5)) for _ in range(5))
            here = open_encoder(self.out / "bundle").encode([query.decode()])
            same = np.array_equal(client.embed(query).vectors, here.vectors)
        answer = "to the bit as in this process" if same else "unlike in this process"
        return f"{len(hits)} cases over gRPC in {milliseconds:.0f} ms, the embedding {answer}", False

    def _server(self) -> "LocalServer":
        from chextriev.bundle import open_bundle
        from chextriev.serving.local_server import LocalServer
        from chextriev.serving.repository import build_repository
        from chextriev.serving.repository_settings import RepositorySettings

        settings = RepositorySettings(indexes=(self.out / "index",))
        build_repository([open_bundle(self.out / "bundle")], self.out / "models", settings)
        return LocalServer(self.out / "models")

    def _evaluated(self, name: str, embeddings: EmbeddingSet) -> "tuple[Evaluation, bool]":
        """Under the default protocol on the test split; and whether it was there already."""
        from chextriev.eval.store import evaluate_or_reuse

        return evaluate_or_reuse(embeddings, self.out / name)

    def _results(self, table: StudyTable) -> dict[str, Any]:
        """What `results.json` holds: the numbers, and all that is needed to repeat them."""
        ids = {split: table.image_id[table.split == split].tolist() for split in SPLITS}
        settings = {"backbone": self.settings.backbone, "training": TRAINING, "synthetic": self._is_synthetic()}
        if self.settings.data is None:
            settings |= {"patients": self.settings.patients, "seed": self.settings.seed}
        return {"settings": settings, "machine": describe_machine(), **self.numbers, "image_ids": ids}

    def _digest(self, name: str, kind: str) -> str:
        from chextriev.index.search import find_generation

        directory = find_generation(self.out / name) if name == "index" else self.out / name
        return read_manifest(directory, kind).digest

    def _is_synthetic(self) -> bool:
        return bool(read_manifest(self.out / "study", STUDY_KIND).facts["synthetic"])

    def _links(self, table: StudyTable, features: "RegionFeatures") -> "RegionLinks":
        """Of the radiographs that the encoder was trained on; as its bundle states them, if it uses them."""
        from chextriev.bundle import open_bundle
        from chextriev.eval.adjacency_picture import RegionLinks
        from chextriev.train.adjacency import cooccurrence_adjacency, region_similarity

        findings = table.region_findings[(table.split == "train") & features.available]
        held = open_bundle(self.out / "bundle").card.adjacency
        adjacency = cooccurrence_adjacency(findings) if held is None else np.array(held, np.int8)
        return RegionLinks(region_similarity(findings), adjacency, len(findings), used=held is not None)

    def _write_report(self, table: StudyTable, rows: "list[tuple[str, Evaluation]]", *, links: "RegionLinks") -> None:
        from chextriev.eval.cases import choose_cases, read_cases
        from chextriev.eval.report import ReportContent, render_report

        lists = rows[0][1].lists
        content = ReportContent(
            title="Similar chest radiographs by anatomy",
            data_note=f"{len(table)} radiographs of {len(set(table.patient_id))} patients; {rows[0][1].split} split.",
            rows=rows,
            cases=read_cases(table, lists, choose_cases(lists, table, count=CASES)),
            provenance={name: self._digest(name, kind) for name, kind in _PARTS.items()},
            warning=SYNTHETIC if self._is_synthetic() else "",
            links=links,
        )
        write_text(self.report, render_report(content))


def synthetic_study(out: Path, *, patients: int, seed: int) -> Path:
    """A folder of phantoms that `data prepare` accepts, generated unless it is there."""
    from chextriev.train.phantom.dataset import KIND, phantom_recipe, write_phantoms

    if find_current(out, KIND, phantom_recipe(patients=patients, seed=seed)) is None:
        write_phantoms(out, patients=patients, seed=seed)
    return out


def _afresh_if_other(directory: Path, mark: str, work: Callable[[], Result]) -> Result:
    """Run `work`; where it refuses what an earlier demo left in `directory` for other data, clear that and run again.

    mark: the file that shows the directory to be the demo's own.
    """
    try:
        return work()
    except (OutputExists, DigestMismatch):
        if not (directory / mark).is_file():
            raise
        shutil.rmtree(directory)
        return work()


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _verdict(trained: "Evaluation", frozen: "Evaluation") -> str:
    at_k, start = trained.overall.at_k[5], frozen.overall.at_k[5].measured.macro.precision
    measured, chance = at_k.measured.macro.precision, at_k.chance.macro.precision
    return f"macro precision@5 {measured:.3f}, frozen features {start:.3f}, chance {chance:.3f}"
