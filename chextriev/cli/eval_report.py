"""chextriev eval report: evaluations as one page with tables, figures and cases, and its Markdown and JSON twins."""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chextriev.cli.output import add_action, emit
from chextriev.errors import InvalidSetting, MissingFile, OtherEncoder

if TYPE_CHECKING:
    from chextriev.eval.cases import Case
    from chextriev.eval.evaluation import Evaluation
    from chextriev.eval.report import ReportContent, Section
    from chextriev.study_table import StudyTable

CASES = 6
TITLE = "Similar chest radiographs by anatomy"
SYNTHETIC = "Synthetic phantoms, not patients: the numbers show that the parts work together, not how well."


def configure(actions: Any) -> None:
    """Add the action `report` of `eval`."""
    report = add_action(actions, "report", "write evaluations of the same queries as one page, with its twins", _report)
    report.add_argument(
        "evaluations",
        type=Path,
        nargs="+",
        metavar="EVAL",
        help="folders that `chextriev eval run` wrote; the first is the system under study",
    )
    report.add_argument("out", type=Path, metavar="OUT.html", help="the page; OUT.md and OUT.json lie beside it")
    report.add_argument("--names", nargs="+", metavar="NAME", help="of the evaluations (default: as stored)")
    report.add_argument("--data", type=Path, help="the study table that was embedded: shows cases")
    report.add_argument("--bench", type=Path, metavar="JSON", help="what `chextriev bench index --json` printed")
    report.add_argument("--occlusion", type=Path, metavar="FOLDER", help="what `chextriev eval occlusion` wrote")
    report.add_argument(
        "--bundle", type=Path, help="encoder of the first EVAL: shows which pairs of regions speak for each case"
    )
    report.add_argument(
        "--draws", type=int, default=10_000, help="of the comparison of systems; 0 leaves it out (default: %(default)s)"
    )
    report.add_argument("--metric", default="precision", help="of the first figure (default: %(default)s)")
    report.add_argument("--title", default=TITLE, help="default: %(default)s")


def _report(options: argparse.Namespace) -> None:
    from chextriev.eval.report import report_paths, write_report

    paths = report_paths(options.out)
    if options.bench is not None and options.bench.resolve() in [path.resolve() for path in paths]:
        raise InvalidSetting(
            f"the report would be written over {options.bench}; choose another name than {options.out}"
        )
    content = _content(options)
    write_report(options.out, content)
    left_out = [
        *([] if options.data else ["no radiographs were named (--data), so it shows no cases"]),
        *([] if options.occlusion else ["no occlusion study (--occlusion), so it shows none"]),
        *([] if options.bench else ["no measurement of an index (--bench), so it shows no latency"]),
    ]
    labels = [label for label, _ in content.rows]
    text = f"{paths[0]}: {', '.join(labels)}; {len(content.cases)} cases; twins {paths[1].name} and {paths[2].name}"
    found = {"files": [str(path) for path in paths], "systems": labels, "cases": len(content.cases)}
    emit(options, "\n".join([text, *left_out]), {**found, "left_out": left_out})


def _content(options: argparse.Namespace) -> "ReportContent":
    from chextriev.eval.cases import choose_cases, read_cases
    from chextriev.eval.report import ReportContent
    from chextriev.eval.store import read_evaluation
    from chextriev.study_table import read_study_table

    evaluations = [read_evaluation(directory) for directory in options.evaluations]
    rows = list(zip(_names(options, evaluations), evaluations, strict=True))
    table, lists = None if options.data is None else read_study_table(options.data), evaluations[0].lists
    cases = () if table is None else read_cases(table, lists, choose_cases(lists, table, count=CASES))
    if table is not None and options.bundle is not None:
        cases = _with_pairs(options.bundle, rows[0], cases, table)
    content = ReportContent(
        title=options.title,
        data_note=_data_note(rows[0][1], table),
        rows=rows,
        cases=cases,
        provenance=_provenance(options, rows),
        warning=SYNTHETIC if options.data is not None and _is_synthetic(options.data) else "",
        bench=None if options.bench is None else _read_bench(options.bench),
        metric=options.metric,
    )
    return replace(content, sections=_sections(options, content))


def _names(options: argparse.Namespace, evaluations: "list[Evaluation]") -> list[str]:
    """As asked for; else as stored or, where that is empty or not unique, the folder's name."""
    given: list[str] | None = options.names
    if given is not None and len(given) != len(evaluations):
        raise InvalidSetting(f"--names {' '.join(given)}: {len(evaluations)} are needed, one for each folder")
    stored = [evaluation.scored.name for evaluation in evaluations]
    if given is None and ("" in stored or len(set(stored)) < len(stored)):
        return [directory.resolve().name for directory in options.evaluations]
    return stored if given is None else given


def _data_note(evaluation: "Evaluation", table: "StudyTable | None") -> str:
    if table is None:
        return f"{evaluation.overall.n_gallery:,} radiographs, {evaluation.split} split."
    return f"{len(table):,} radiographs of {len(set(table.patient_id)):,} patients; {evaluation.split} split."


def _provenance(options: argparse.Namespace, rows: "list[tuple[str, Evaluation]]") -> dict[str, str]:
    from chextriev.artifacts import read_manifest
    from chextriev.eval.store import KIND
    from chextriev.study_table import KIND as STUDY_KIND

    found = {}
    for (label, evaluation), directory in zip(rows, options.evaluations, strict=True):
        found[f"{label}: evaluation"] = read_manifest(directory, KIND).digest
        found |= {f"{label}: {name}": digest for name, digest in evaluation.parents.items()}
    if options.data is not None:
        found["study table"] = read_manifest(options.data, STUDY_KIND).digest
    return found


def _is_synthetic(data: Path) -> bool:
    from chextriev.artifacts import read_manifest
    from chextriev.study_table import KIND

    return bool(read_manifest(data, KIND).facts.get("synthetic", False))


def _sections(options: argparse.Namespace, content: "ReportContent") -> "list[Section]":
    """Significance where there are several systems, and occlusion where a study is named."""
    from chextriev.eval.compare import compare
    from chextriev.eval.compare_text import Shown
    from chextriev.eval.occlusion_run import read_occlusion
    from chextriev.eval.report_parts import comparison_section, occlusion_section
    from chextriev.eval.significance import SignificanceSettings

    sections = []
    if len(content.rows) > 1 and options.draws:
        scored = [replace(evaluation.scored, name=label) for label, evaluation in reversed(content.rows)]
        shown = Shown(content.shown_k, content.metric)
        sections.append(comparison_section(compare(scored, SignificanceSettings(options.draws)), shown))
    if options.occlusion is not None:
        study, (label, evaluation) = read_occlusion(options.occlusion), content.rows[0]
        _check_encoder(options.occlusion, study.parents["encoder"], label, evaluation)
        sections.append(occlusion_section(study))
    return sections


def _check_encoder(what: Path, encoder: str, label: str, evaluation: "Evaluation") -> None:
    """OtherEncoder where a bundle or a study is not of the encoder that was evaluated."""
    used = evaluation.parents["encoder"]
    if encoder != used:
        raise OtherEncoder(
            f"{what} is of encoder {encoder[:12]}, {label!r} was evaluated with {used[:12]}; give the one that belongs"
            f" to {label!r}, or name its evaluation first"
        )


def _with_pairs(
    bundle: Path, row: "tuple[str, Evaluation]", cases: "tuple[Case, ...]", table: "StudyTable"
) -> "tuple[Case, ...]":
    from chextriev.encoder import open_encoder
    from chextriev.eval.report_parts import with_region_pairs

    encoder = open_encoder(bundle)
    _check_encoder(bundle, encoder.bundle.digest, *row)
    return with_region_pairs(cases, encoder, table)


def _read_bench(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise MissingFile(f"there is no file {path}; give what `chextriev bench index --json` printed") from error
    except (OSError, ValueError) as error:
        raise InvalidSetting(
            f"{path} is not JSON ({error}); give what `chextriev bench index --json` printed"
        ) from error
    if not isinstance(content, dict):
        raise InvalidSetting(f"{path} holds no JSON object; give what `chextriev bench index --json` printed")
    return content
