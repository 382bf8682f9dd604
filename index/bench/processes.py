"""Questions to a fresh process, whose memory is its own."""

import json
import subprocess
import sys
from typing import Any

MODULE = "chextriev.index.bench.memory_process"
LIMIT_S = 7_200


def ask(task: dict[str, Any]) -> dict[str, Any]:
    """The answer to one of the tasks of `memory_process`; RuntimeError if the process fails."""
    ended = subprocess.run(
        [sys.executable, "-m", MODULE],
        input=json.dumps(task),
        stdout=subprocess.PIPE,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    if ended.returncode:
        raise RuntimeError(f"bench index: the process that measures memory ended with status {ended.returncode}")
    answer: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return answer
