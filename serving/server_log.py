"""What of Triton's output may be kept: nothing that a request, an image or a path of the user could have put there.

Triton repeats request ids, model names and pieces of requests in what it logs, the more so when a client raises its
verbosity, and a model's Python errors hold anything. So a line is kept whole only if it is one of the known ones, with
names of our own models; of other warnings and errors, the place in Triton's source is kept, and the text is withheld.
The guardian loads this file by itself: it imports nothing but Python's own library.
"""

import re
from collections.abc import Iterable

_LINE = re.compile(r'(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ) ([IWEF]) \d+ ([a-z_]+\.(?:cc|h|py):\d+)\] "(.*)"?')
_KNOWN = (
    r"loading: NAME:\d+",
    r"successfully (?:un)?loaded 'NAME'(?: version \d+)?",
    r"TRITONBACKEND_ModelInstance(?:Initialize|Finalize): NAME_\d+(?:_\d+)? \(\w+ device \d+\)",
    r"Started (?:GRPCInferenceService|HTTPService|Metrics Service) at 127\.0\.0\.1:\d+",
    r"Stub process 'NAME_\d+(?:_\d+)?' is not healthy\.",
    r"Waiting for in-flight requests to complete\.",
    r"All models are stopped, unloading models",
    r"Timeout \d+: Found \d+ live models and \d+ in-flight non-inference requests",
    r"Timeout \d+: Found \d+ model versions that have in-flight inferences",
    r"Exit timeout expired\. Exiting immediately\.",
)
_NO_GPU = re.compile(
    r"Unable to allocate pinned system memory, .*|CudaDriverHelper has not been initialized\."
    r"|unable to create stream for \S+: CUDA driver version is insufficient .*"
    r"|failed to allocate pinned system memory: .*"
)
"""What this build says as an error or warning of any machine without a GPU."""
_OURS = re.compile(r"chextriev: \w+ in [\w.]*, line \d+")
"""Where a model of ours broke (`models.answers.refuse`): kind of error and place, no word of the request."""
_PATH = re.compile(r"(?<![\w.:/])/[^\s'\",;:)(]+")
_DROPPED = "I"


class LineFilter:
    """Triton's lines to what may be kept of them. models: names that may stand in a line."""

    def __init__(self, models: Iterable[str]) -> None:
        names = "|".join(map(re.escape, models)) or "(?!)"
        self._known = re.compile("|".join(f"(?:{known})" for known in _KNOWN).replace("NAME", f"(?:{names})"))

    def kept(self, line: str) -> str | None:
        """The line as the log may have it, or None for one that it does without."""
        if _OURS.fullmatch(line):
            return line
        found = _LINE.fullmatch(line)
        if found is None:
            return None
        at, level, place, text = found.groups()
        text = text.removesuffix('"')
        if self._known.fullmatch(text):
            return f"{at} {level} {place} {text}"
        return None if level == _DROPPED or _NO_GPU.fullmatch(text) else f"{at} {level} {place} (text withheld)"


def without_paths(text: str, *folders: str) -> str:
    """The text with every absolute path taken out; `folders` are those whose names may hold spaces."""
    for folder in folders:
        text = text.replace(folder, "/")
    return _PATH.sub("(path)", text)
