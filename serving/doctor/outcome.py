"""What a check of a deployment found."""

from dataclasses import dataclass
from typing import Literal

State = Literal["pass", "fail", "cannot tell"]


@dataclass(frozen=True)
class Outcome:
    """One check. seen: what the server did; cure: what to do about it, empty where it passed."""

    check: str
    state: State
    seen: str
    cure: str = ""


def judge(check: str, good: bool, seen: str, cure: str) -> Outcome:
    """Pass or fail; the cure is for a failure."""
    return Outcome(check, "pass", seen) if good else Outcome(check, "fail", seen, cure)


def unclear(check: str, seen: str, cure: str = "") -> Outcome:
    """Neither pass nor fail."""
    return Outcome(check, "cannot tell", seen, cure)
