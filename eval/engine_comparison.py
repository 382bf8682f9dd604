"""What a re-evaluation says: for each engine of a bundle, how well it retrieves and how fast it is."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from chextriev.eval.engine_speed import DEFINITIONS, EngineSpeed
from chextriev.eval.evaluation import Evaluation, Interval, ScoresAtK
from chextriev.eval.gate import Judgement
from chextriev.eval.metrics import METRICS

K = 5
"""Length of the lists that engines are compared by."""


@dataclass(frozen=True, eq=False)
class EngineResult:
    """One engine that ran here.

    verdict: "reference", the status that the bundle's card gives this engine on this arithmetic, or "not measured".
    files: what it runs, name -> size and sha256. judgement: against the reference on the same radiographs; None of the
    reference itself. radiographs, seconds: of the streamed run. reused: nothing of this had to be measured now.
    """

    name: str
    device: str
    arithmetic: str
    verdict: str
    files: Mapping[str, Mapping[str, Any]]
    evaluation: Evaluation
    judgement: Judgement | None
    radiographs: int
    seconds: float
    speed: EngineSpeed
    reused: bool

    @property
    def scores(self) -> ScoresAtK:
        """Measured and by chance at k."""
        return self.evaluation.overall.at_k[K]

    @property
    def files_bytes(self) -> int:
        """Size of the files together."""
        return sum(int(record["size"]) for record in self.files.values())

    @property
    def radiographs_per_s(self) -> float:
        """Of the streamed run."""
        return self.radiographs / self.seconds

    @property
    def change_of_ap(self) -> tuple[float, Interval]:
        """AP@5 over hits less that of the reference, and its paired interval; 0 and None of the reference itself."""
        if self.judgement is None:
            return 0.0, None
        found = self.judgement.measured["ap@5"]
        return found["change"], found["interval"]

    def as_dict(self) -> dict[str, Any]:
        """Plain values; None where there is nothing to measure."""
        overall, scores = self.evaluation.overall, self.scores
        quality = {
            name: {
                "measured": getattr(scores.measured.macro, name),
                "interval": scores.interval[name],
                "chance": getattr(scores.chance.macro, name),
            }
            for name in METRICS
        }
        return {
            "verdict": self.verdict,
            "device": self.device,
            "arithmetic": self.arithmetic,
            "files": dict(self.files),
            "files_bytes": self.files_bytes,
            "queries": overall.n_queries,
            "gallery": overall.n_gallery,
            "findings_with_queries": scores.measured.n_classes,
            f"at_{K}": quality,
            "against_reference": None if self.judgement is None else _judged(self.judgement),
            "streamed": {
                "radiographs": self.radiographs,
                "seconds": self.seconds,
                "radiographs_per_s": self.radiographs_per_s,
            },
            "speed": asdict(self.speed),
        }


@dataclass(frozen=True, eq=False)
class EngineComparison:
    """Engines of one bundle over one split, the reference first.

    about: settings, machine, bundle, data and versions. left_out: engines without a result, and why.
    """

    about: Mapping[str, Any]
    results: tuple[EngineResult, ...]
    left_out: Mapping[str, str]

    @property
    def reference(self) -> EngineResult:
        """Eager PyTorch in float32."""
        return self.results[0]

    @property
    def reused(self) -> list[str]:
        """Engines of which nothing had to be measured."""
        return [result.name for result in self.results if result.reused]

    def as_dict(self) -> dict[str, Any]:
        """The content of `engines.json`; which engines were reused is not in it."""
        return {
            **self.about,
            "definitions": DEFINITIONS,
            "engines": {result.name: result.as_dict() for result in self.results},
            "left_out": dict(self.left_out),
        }


def _judged(judgement: Judgement) -> dict[str, Any]:
    """inside_budget: what the gate would say of these radiographs; the verdict is of the validation split."""
    return {
        **judgement.measured,
        "inside_budget": judgement.passed,
        "outside": list(judgement.failures),
        "remarks": list(judgement.remarks),
    }
