"""An evaluation as people read it: all averages, then groups of queries, then what the view alone would reach."""

from chextriev.eval.evaluation import Evaluation
from chextriev.eval.markdown import render_markdown
from chextriev.eval.strata import render_strata
from chextriev.eval.view_baseline import render_view_baseline

SHOWN_K = 5


def render_evaluation(evaluation: Evaluation) -> str:
    """The text of `evaluation.md`."""
    ks = evaluation.protocol.ks
    parts = [render_markdown(evaluation)]
    if evaluation.strata is not None:
        parts.append(render_strata(evaluation.strata, k=SHOWN_K if SHOWN_K in ks else ks[0]))
    if evaluation.view_baseline is not None:
        parts.append(render_view_baseline(evaluation.view_baseline))
    return "\n".join(parts)
