"""Which of Triton's lines may be kept."""

import pytest

from chextriev.serving.server_log import LineFilter, without_paths

AT = "2026-01-02T03:04:05Z"
SECRET = "p10046166"


def kept(text: str, level: str = "I", place: str = "server.cc:12") -> str | None:
    return LineFilter(["chextriev_v6", "region_backbone"]).kept(f'{AT} {level} 123 {place}] "{text}"')


@pytest.mark.parametrize(
    "text",
    [
        "loading: chextriev_v6:1",
        "successfully loaded 'region_backbone'",
        "successfully unloaded 'region_backbone' version 1",
        "Started HTTPService at 127.0.0.1:8000",
        "Stub process 'region_backbone_0_0' is not healthy.",
    ],
)
def test_known_lines_are_kept(text: str) -> None:
    assert kept(text) == f"{AT} I server.cc:12 {text}"


@pytest.mark.parametrize(
    "text",
    [
        f"loading: {SECRET}:1",
        f"failed to poll model '{SECRET}': model not found in any model repository.",
        f"[request id: {SECRET}] Infer failed",
        f"successfully loaded 'chextriev_v6' {SECRET}",
        f"Timeout 5: Found 1 live models {SECRET}",
        f"failed to allocate pinned system memory: {SECRET}",
    ],
)
@pytest.mark.parametrize("level", ["I", "W", "E", "F"])
def test_text_of_others_is_withheld(text: str, level: str) -> None:
    found = kept(text, level)
    assert found in (None, f"{AT} {level} server.cc:12 (text withheld)")
    assert (found is None) == (level == "I" or "pinned" in text)


@pytest.mark.parametrize(
    "line",
    [
        SECRET,
        f"| {SECRET} | 1 | READY |",
        f'{AT} E 123 {SECRET}] "text"',
        f"I0102 03:04:05.123 1 pb_stub.cc:12] {SECRET}",
        "",
    ],
)
def test_what_is_no_line_of_the_log_is_dropped(line: str) -> None:
    assert LineFilter(["chextriev_v6"]).kept(line) is None


def test_a_repository_without_models_keeps_no_name() -> None:
    assert LineFilter([]).kept(f'{AT} I 1 server.cc:1] "loading: :1"') is None


def test_paths_are_taken_out() -> None:
    text = "FileNotFoundError: '/home/meier/x.onnx' (/srv/a b/c.py): see http://host/page"
    assert without_paths(text, "/srv/a b") == "FileNotFoundError: '(path)' ((path)): see http://host/page"


def test_where_a_model_of_ours_broke_is_kept_and_nothing_beside_it() -> None:
    kept = LineFilter(["toy_worker"]).kept
    line = "chextriev: ZeroDivisionError in chextriev.serving.models.preprocess, line 57"
    assert kept(line) == line
    assert kept(f"{line} of patient 7") is None
    assert kept("chextriev: patient 7 in chextriev, line 57") is None
