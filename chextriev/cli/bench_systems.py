"""`chextriev bench systems`: train every system on one data set with several seeds, and measure what each retrieves."""

import gc
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from chextriev.cli.demo_stages import TRAINING, synthetic_study
from chextriev.embedding_set import EmbeddingSet, read_embeddings
from chextriev.errors import InvalidSetting
from chextriev.machine import describe_machine
from chextriev.study_table import SPLITS, StudyTable, read_study_table
from chextriev.systems import SYSTEMS, SystemSpec, find_system, trains_backbone

if TYPE_CHECKING:
    from chextriev.eval.evaluation import Evaluation

K = 5
BASELINE = "frozen features"

SCHEDULE = {
    **TRAINING,
    "--trainer.enable_model_summary": "false",
    "--trainer.enable_progress_bar": "false",
    "--logger": "none",
}
"""A few hundred radiographs want larger steps and fewer epochs than the published schedule."""

OWN = {
    "global-cnn": {"--model.learning_rate": "5e-4"},  # as published
    "ath": {"--model.learning_rate": "1e-3", "--data.batch_size": "24"},  # as published
    # About as many steps as the others take, in the one epoch that a CPU has time for.
    "v6-e2e": {"--trainer.max_epochs": "1", "--data.batch_size": "4", "--model.recompute": "false"},
}
ONE_SEED = ("v6-e2e",)
"""Systems that a CPU trains too slowly for several seeds."""


@dataclass(frozen=True)
class SystemsBenchSettings:
    """What is trained on what.

    work: folder of everything that is made; what is there already is reused. data: a folder that `data prepare`
    accepts; None generates phantoms of `patients` with seed 0.
    """

    work: Path
    data: Path | None = None
    patients: int = 300
    systems: tuple[str, ...] = tuple(SYSTEMS)
    seeds: tuple[int, ...] = (0, 1, 2)
    backbone: str = "efficientnet-lite0"
    weights: str | None = None

    def __post_init__(self) -> None:
        for system in self.systems:
            find_system(system)
        if not self.seeds or len(set(self.seeds)) != len(self.seeds) or min(self.seeds) < 0:
            raise InvalidSetting(f"bench systems: seeds {self.seeds}; different whole numbers from 0 are needed")
        from chextriev.eval.seeds import T_975

        if len(self.seeds) > len(T_975) + 1:
            raise InvalidSetting(f"bench systems: {len(self.seeds)} seeds; at most {len(T_975) + 1} have an interval")

    def seeds_of(self, system: str) -> tuple[int, ...]:
        """The seeds with which a system is trained."""
        return self.seeds[:1] if system in ONE_SEED else self.seeds


def bench_systems(settings: SystemsBenchSettings) -> dict[str, Any]:
    """Train and evaluate; each system's metrics over its seeds beside frozen features and chance; JSON-able."""
    from chextriev.eval.seeds import mean_over_seeds, render_systems, seeds_as_dict

    bench = _Bench(settings)
    measured: dict[str, list[Evaluation]] = {BASELINE: [bench.evaluate_frozen()]}
    seconds: dict[str, list[float]] = {}
    for system, seed in bench.jobs():
        facts, evaluation = bench.train_and_evaluate(system, seed)
        measured.setdefault(system, []).append(evaluation)
        seconds.setdefault(system, []).append(float(facts["seconds"]))
    macro = measured[BASELINE][0].overall.at_k[K].chance.macro
    chance = {metric: value for metric, value in asdict(macro).items() if metric != "n"}
    rows = {system: mean_over_seeds(evaluations, k=K) for system, evaluations in measured.items()}
    table = bench.table
    took = {system: median(times) for system, times in seconds.items()}
    return {
        "settings": {
            "synthetic": settings.data is None,
            "patients": settings.patients if settings.data is None else len(set(table.patient_id)),
            "seeds": settings.seeds,
            "one_seed": ONE_SEED,
            "backbone": settings.backbone,
            "schedule": SCHEDULE,
            "own": OWN,
        },
        "machine": describe_machine(),
        "radiographs": {split: int((table.split == split).sum()) for split in SPLITS},
        "queries": measured[BASELINE][0].overall.n_queries,
        "k": K,
        "chance": chance,
        "systems": {system: seeds_as_dict(metrics) for system, metrics in rows.items()},
        "patient_intervals": {system: _patient_intervals(found) for system, found in measured.items()},
        "training_seconds": seconds,
        "table": render_systems(rows, chance, k=K, seconds=took).split("\n"),
    }


class _Bench:
    """The stages, each of which leaves a directory under `work` that a later run reuses."""

    def __init__(self, settings: SystemsBenchSettings) -> None:
        from chextriev.train.prepare import prepare

        self.settings, self.work = settings, settings.work
        source = settings.data or synthetic_study(self.work / "phantoms", patients=settings.patients, seed=0)
        prepare(source, self.work / "study")
        self.table: StudyTable = read_study_table(self.work / "study")

    def jobs(self) -> Iterator[tuple[str, int]]:
        """Each system with each of its seeds."""
        from chextriev.progress import track

        jobs = [(system, seed) for system in self.settings.systems for seed in self.settings.seeds_of(system)]
        return track(jobs, "systems", unit="training")

    def features(self, spec: SystemSpec) -> Path:
        """The cache that a system learns from, computed once for all systems and seeds."""
        from chextriev.export.onnx_runner import OnnxExtractor
        from chextriev.train.backbones import load_backbone
        from chextriev.train.features import (
            DeferredExtractor,
            FeatureExtractor,
            FeatureSettings,
            PixelExtractor,
            compute_features,
        )

        name = "pixels" if trains_backbone(spec) else self.settings.backbone
        out = self.work / f"features-{spec.crops.area}-{spec.crops.size}-{name}"
        extractor: FeatureExtractor = PixelExtractor(spec.crops)
        if not trains_backbone(spec):
            backbone = load_backbone(self.settings.backbone, weights=self.settings.weights)
            extractor = DeferredExtractor(backbone, OnnxExtractor.from_backbone)
        compute_features(self.table, out, extractor, settings=FeatureSettings(spec.crops))
        return out

    def train_and_evaluate(self, system: str, seed: int) -> "tuple[dict[str, Any], Evaluation]":
        """One training, its embeddings of every radiograph and its evaluation on the test split."""
        from chextriev.train.configs import config_path
        from chextriev.train.fit import run_train

        run = self.work / "runs" / f"{system}-seed{seed}"
        options = {
            "--config": str(config_path(system)),
            "--data.features": str(self.features(find_system(system))),
            "--data.table": str(self.work / "study"),
            "--seed_everything": str(seed),
            "--data.seed": str(seed),
            "--out": str(run),
            **SCHEDULE,
            **OWN.get(system, {}),
        }
        if getattr(find_system(system), "backbone", "frozen") == "trained":
            options["--model.backbone"] = self.settings.backbone
        words = [word for pair in options.items() for word in pair]
        facts = dict(run_train(["fit", *words]).manifest.facts)
        run_train(["predict", *words])
        gc.collect()  # Lightning's trainers hold cycles, and in them the weights of every earlier system
        return facts, self._evaluated(run.name, read_embeddings(run / "predictions"))

    def evaluate_frozen(self) -> "Evaluation":
        """The mean of the frozen region features, which every trained encoder must beat."""
        from chextriev.export.embed import pooled_features
        from chextriev.train.features import open_features

        return self._evaluated(BASELINE, pooled_features(self.table, open_features(self.features(find_system("v6")))))

    def _evaluated(self, name: str, embeddings: EmbeddingSet) -> "Evaluation":
        from chextriev.eval.store import evaluate_or_reuse

        return evaluate_or_reuse(embeddings, self.work / "evaluations" / name.replace(" ", "-"))[0]


def _patient_intervals(evaluations: "list[Evaluation]") -> list[dict[str, Any]]:
    """For each seed, the bootstrap intervals over patients of the test split."""
    return [dict(evaluation.overall.at_k[K].interval) for evaluation in evaluations]
