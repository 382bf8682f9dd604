"""Load that does not wait, what is counted of it, and a whole measurement of a tiny encoder."""

import asyncio
import json
import os
import selectors
import stat
import subprocess
import sys
from collections.abc import Coroutine
from itertools import count
from pathlib import Path
from typing import Any, TypeVar
from xml.etree import ElementTree

import numpy as np
import pytest

from chextriev.errors import InvalidSetting, MissingDependency, Overloaded
from chextriev.radiograph_file import RadiographFile
from chextriev.serving.bench import ServeBenchSettings, bench_serve
from chextriev.serving.bench.arrivals import evenly_spaced, poisson
from chextriev.serving.bench.open_loop import Sent, percentiles, send_when_due, summarise
from chextriev.serving.bench.perf_analyzer import check_program, gaps_text, input_data, read_table
from chextriev.serving.bench.picture import draw_load
from chextriev.serving.bench.server_memory import MemoryWatch, held_bytes
from chextriev.serving.bench.server_statistics import Counts, work_between
from chextriev.serving.bench.targets import targets
from chextriev.serving.bench.wire_bytes import relay_to
from tests.export.tiny_bundle import TinyBundle
from tests.tiny import boxes

Result = TypeVar("Result")


class Jumping(selectors.DefaultSelector):
    """A selector that does not wait: its loop's clock jumps to when the next thing is due."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if not ready and timeout:
            self.now += timeout
        return ready


class MadeUpTime(asyncio.SelectorEventLoop):
    """An event loop whose seconds pass at once."""

    def __init__(self) -> None:
        self.clock = Jumping()
        super().__init__(self.clock)

    def time(self) -> float:
        return self.clock.now


def in_made_up_time(work: Coroutine[Any, Any, Result]) -> Result:
    with asyncio.Runner(loop_factory=MadeUpTime) as runner:
        return runner.run(work)


async def load(service_s: float, arrivals_s: list[float]) -> list[Sent]:
    """Of a server that answers one request at a time."""
    free = asyncio.Lock()

    async def send() -> None:
        async with free:
            await asyncio.sleep(service_s)

    return await send_when_due(send, arrivals_s)


def test_arrivals_come_from_the_seed() -> None:
    first = poisson(50, 100, seed=3)
    np.testing.assert_array_equal(first, poisson(50, 100, seed=3))
    assert not np.array_equal(first, poisson(50, 100, seed=4)[: len(first)])


def test_poisson_arrivals_have_their_rate_and_spread() -> None:
    arrivals = poisson(50, 100, seed=0)
    gaps = np.diff(arrivals)
    assert abs(len(arrivals) - 5000) < 5 * 5000**0.5
    assert (gaps > 0).all()
    assert arrivals[-1] < 100
    assert gaps.std() / gaps.mean() == pytest.approx(1, abs=0.05)  # of an exponential distribution; even gaps have 0
    assert (gaps > 0.02).mean() == pytest.approx(np.exp(-1), abs=0.03)


def test_even_arrivals_are_all_due_within_the_time() -> None:
    np.testing.assert_allclose(evenly_spaced(4, 1.1), [0, 0.25, 0.5, 0.75, 1.0])
    assert len(evenly_spaced(0.1, 5)) == 1


@pytest.mark.parametrize(("rate", "duration"), [(0, 1), (-1, 1), (float("inf"), 1), (1, 0), (1, float("nan"))])
def test_arrivals_need_a_rate_and_a_time(rate: float, duration: float) -> None:
    for arrivals in (lambda: poisson(rate, duration, seed=0), lambda: evenly_spaced(rate, duration)):
        with pytest.raises(InvalidSetting):
            arrivals()


def test_requests_are_sent_when_due_and_latency_holds_the_queue() -> None:
    sent = in_made_up_time(load(1.0, [0, 0.25, 0.5, 5]))
    assert [request.sent_s for request in sent] == pytest.approx([0, 0.25, 0.5, 5])
    assert [request.latency_s for request in sent] == pytest.approx([1, 1.75, 2.5, 1])


def test_a_generator_that_comes_late_hides_nothing() -> None:
    async def late() -> list[Sent]:
        loop, first = asyncio.get_running_loop(), count()
        assert isinstance(loop, MadeUpTime)

        async def send() -> None:
            if next(first) == 0:
                loop.clock.now += 3  # the loop is busy with something else
            await asyncio.sleep(0.1)

        return await send_when_due(send, [0, 1, 2, 4])

    sent = in_made_up_time(late())
    assert [request.sent_s for request in sent] == pytest.approx([0, 3, 3, 4])
    assert [request.latency_s for request in sent] == pytest.approx([3.1, 2.1, 1.1, 0.1])
    assert summarise(sent)["late_ms_p99"] == pytest.approx(2000)


def test_an_error_is_counted_and_no_latency() -> None:
    async def overloaded() -> list[Sent]:
        calls = count()

        async def send() -> None:
            await asyncio.sleep(1)
            if next(calls) % 3 == 2:
                await asyncio.sleep(50)
                raise Overloaded("the queue is full; try later")

        return await send_when_due(send, range(9))

    found = summarise(in_made_up_time(overloaded()))
    assert (found["requests"], found["errors"]) == (9, {"Overloaded": 3})
    assert found["latency_ms"]["max"] == pytest.approx(1000)
    assert found["answered_per_s"] == pytest.approx(6 / 59)


def test_what_is_no_answer_of_a_server_ends_the_load() -> None:
    async def broken() -> list[Sent]:
        async def send() -> None:
            raise ZeroDivisionError

        return await send_when_due(send, [0, 1])

    with pytest.raises(ExceptionGroup) as caught:
        in_made_up_time(broken())
    assert caught.group_contains(ZeroDivisionError)


def test_percentiles_are_values_that_were_measured() -> None:
    assert percentiles([float(value) for value in range(100, 0, -1)]) == {"p50": 50, "p95": 95, "p99": 99, "max": 100}
    assert percentiles([3.0, 1.0, 2.0]) == {"p50": 2, "p95": 3, "p99": 3, "max": 3}
    assert percentiles([]) == {}


def test_the_work_of_a_server_is_that_between_two_readings() -> None:
    def counts(requests: int, executions: int, queue_ms: int) -> Counts:
        times = {"queue_ms": queue_ms, "input_ms": 0, "run_ms": 10 * requests, "output_ms": 0}
        return Counts(requests, executions, {name: 10**6 * value for name, value in times.items()})

    before = {"backbone": counts(10, 10, 70), "idle": counts(5, 5, 0)}
    after = {"backbone": counts(18, 12, 86), "idle": counts(5, 5, 0), "new": counts(2, 2, 4)}
    work = work_between(before, after)
    assert work.keys() == {"backbone", "new"}
    wanted = {"requests": 8, "batch": 4, "queue_ms": 2, "input_ms": 0, "run_ms": 10, "output_ms": 0}
    assert work["backbone"] == pytest.approx(wanted)
    assert work["new"]["queue_ms"] == pytest.approx(2)


GROWING = "import sys; print(flush=True); input(); kept = b'x' * 32_000_000; print(flush=True); input()"


def test_memory_is_watched_from_beginning_to_end() -> None:
    command, pipe = [sys.executable, "-c", GROWING], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, bufsize=0) as other:  # what this process does is its own
        assert other.stdin is not None
        assert other.stdout is not None
        other.stdout.readline()
        assert held_bytes(other.pid) > 1e6
        with MemoryWatch(lambda: [other.pid], every_s=3600) as watch:
            other.stdin.write(b"\n")
            other.stdout.readline()
        found = watch.summary()
        other.stdin.write(b"\n")
    assert found["samples"] == 2
    assert 31 < found["growth_mb"] < 34
    assert found["end_mb"] - found["start_mb"] == pytest.approx(found["growth_mb"])


def test_a_process_that_ended_has_no_memory() -> None:
    with MemoryWatch(lambda: [2**22 + 1], every_s=3600) as watch:  # above the highest process id of Linux
        pass
    assert watch.summary()["most_mb"] == 0


def test_a_relay_counts_what_passes() -> None:
    async def talk() -> tuple[bytes, int, int]:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.readexactly(100_000) + b"!")
            await writer.drain()
            writer.close()

        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
            async with relay_to(address) as relay:
                reader, writer = await asyncio.open_connection("127.0.0.1", int(relay.address.rpartition(":")[2]))
                writer.write(b"x" * 100_000)
                echoed = await reader.read(-1)
                writer.close()
                await writer.wait_closed()
                return echoed, relay.sent, relay.received

    echoed, sent, received = asyncio.run(talk())
    assert echoed == b"x" * 100_000 + b"!"
    assert (sent, received) == (100_000, 100_001)


def test_perf_analyzer_is_given_the_bytes_as_triton_lays_them_out() -> None:
    import base64

    (data,) = input_data(RadiographFile("a", b"abc", boxes()))["data"]
    assert base64.b64decode(data["image"]["b64"]) == b"\x03\x00\x00\x00abc"
    assert len(json.loads(json.dumps(data))["boxes"]["content"]) == 18 * 4


def test_perf_analyzer_is_given_our_arrivals() -> None:
    assert gaps_text(np.array([0.5, 0.75, 2])) == "500000\n250000\n1250000\n"


def test_the_table_of_perf_analyzer_is_read() -> None:
    text = (
        "Request Rate,Inferences/Second,Client Send,Network+Server Send/Recv,Server Queue,Server Compute Input,"
        "Server Compute Infer,Server Compute Output,Client Recv,p50 latency,p90 latency,p95 latency,p99 latency\n"
        "4,1.81354,38,559679,2,1203,1359665,7129,4,2003632,2310297,2387902,2388423\n\n"
    )
    found = read_table(text)
    assert found["answered_per_s"] == pytest.approx(1.81354)
    assert found["latency_ms"] == pytest.approx({"p50": 2003.632, "p95": 2387.902, "p99": 2388.423})


def test_a_program_that_is_no_perf_analyzer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingDependency, match=r"get_perf_analyzer\.sh"):
        check_program(tmp_path / "none")
    with pytest.raises(MissingDependency, match="CalledProcessError"):
        check_program(Path("/bin/false"))


@pytest.mark.parametrize(
    "settings", [{"loads": (0.5, 1.0)}, {"loads": ()}, {"minutes": 0}, {"minutes": float("nan")}, {"concurrency": (0,)}]
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidSetting, match="bench serve"):
        ServeBenchSettings(**settings)


@pytest.fixture(scope="module")
def measured(ath: TinyBundle, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A whole measurement in a few seconds: what it says of speed is nothing to rely on."""
    program = tmp_path_factory.mktemp("program") / "perf_analyzer"
    program.write_text('#!/bin/sh\n[ "$1" = --version ] && exec echo 1.0\necho "no such server" >&2\nexit 99\n')
    program.chmod(stat.S_IRWXU)
    sizes: dict[str, Any] = {"height": 400, "width": 300, "turns": 3, "repeats": 1, "work_s": 0.1}
    load: dict[str, Any] = {"concurrency": (1, 4), "loads": (0.2, 0.4), "load_s": 1.0, "minutes": 0.04}
    return bench_serve(ServeBenchSettings(bundle=ath.folder, perf_analyzer=program, **sizes, **load))


def test_a_whole_measurement_has_no_errors(measured: dict[str, Any]) -> None:
    loads = [*measured["rising_load"]["poisson"], measured["rising_load"]["evenly_spaced"], measured["long_load"]]
    for load in loads:
        assert load["requests"] > 0
        assert load["errors"] == {}
        assert load["latency_ms"]["p50"] <= load["latency_ms"]["p95"] <= load["latency_ms"]["p99"]
        counted = load["server"]["encoder_ath"]["requests"] - load["requests"]
        assert 1 <= counted <= 3  # the first is not the load's, nor are canaries of the supervisor
    assert measured["server_events"] == []
    assert measured["long_load"]["memory"]["samples"] >= 3
    assert measured["long_load"]["memory"]["start_mb"] > 50


def test_a_whole_measurement_compares_with_this_process(measured: dict[str, Any]) -> None:
    for ways in measured["latency"].values():
        assert ways.keys() == {"in process", "grpc", "http", "shm"}
    found = measured["saturation"]
    assert found["triton_per_s"].keys() == {"1", "4"}
    assert min(found["in_process_per_s"], *found["triton_per_s"].values(), *found["cpu_ms"].values()) > 0


def test_bytes_on_the_wire_are_those_of_the_file_and_little_more(measured: dict[str, Any]) -> None:
    wire = measured["wire"]
    assert wire["float_crops"] == 10_838_016
    assert wire["query"]["bytes"] <= 250_000
    for query in (wire["query"], wire["small"], wire["original"]):
        for way in ("grpc", "http"):
            assert query["bytes"] + 18 * 4 * 4 < query[way]["sent"] < query["bytes"] + 2_000
        assert query["grpc"]["share_of_float_crops"] == query["grpc"]["sent"] / wire["float_crops"]


def test_a_perf_analyzer_that_fails_costs_no_other_result(measured: dict[str, Any]) -> None:
    found = measured["perf_analyzer"]
    failed = [*found["concurrency"].values(), *found["poisson"]]
    assert [case["failed"] for case in failed] == ["no such server"] * 4
    assert any("no such server" in line for line in measured["table"])


def test_results_are_a_document_a_table_and_a_picture(measured: dict[str, Any]) -> None:
    said = json.dumps(measured, allow_nan=False)
    assert "/tmp" not in said
    assert os.uname().nodename not in said
    assert {"met", "NOT MET"} >= {line.split("  ")[-1].strip() for line in measured["table"][-8:]}
    picture = ElementTree.fromstring(draw_load(measured))
    places = [float(mark.attrib["cy"]) for mark in picture.iter("{http://www.w3.org/2000/svg}circle")]
    assert len(places) == 2 * 3 + 2  # three percentiles of two loads; two concurrencies
    assert all(56 <= place <= 370 for place in places)


def test_a_target_without_a_measurement_is_not_met(measured: dict[str, Any]) -> None:
    assert targets(measured)["errors under load, restarts included"] == {"measured": 0, "target": 0, "met": True}
    unanswered = {**measured["long_load"], "latency_ms": {}, "errors": {"DeadlineExpired": 5}}
    found = targets({**measured, "long_load": unanswered})
    assert found["Poisson arrivals at 70%, p99 over p50"] == {"measured": None, "target": 6.0, "met": False}
    assert found["errors under load, restarts included"] == {"measured": 5, "target": 0, "met": False}
