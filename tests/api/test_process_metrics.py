"""/metrics of several processes: sums that never go down, and nothing of what is gone but what it counted."""

import asyncio
import multiprocessing
import shutil
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.parser import text_string_to_metric_families

from api import process_metrics
from api.process_metrics import ProcessMetrics, added


class Counting:
    """A process's metrics, of each kind."""

    def __init__(self, folder: Path | None) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("requests", "Requests.", ["model"], registry=self.registry)
        self.running = Gauge("running", "Running.", ["model"], registry=self.registry)
        self.seconds = Histogram("seconds", "Seconds.", buckets=(1, 2), registry=self.registry)
        self.metrics = ProcessMetrics(self.registry, folder)

    def work(self, model: str, count: int) -> None:
        """So many requests are answered, and one more is running."""
        self.requests.labels(model).inc(count)
        self.running.labels(model).inc()
        for _ in range(count):
            self.seconds.observe(1.5)


def _obey(folder: Path, pipe: Connection) -> None:
    counting = Counting(folder)
    while True:
        try:
            verb, *arguments = pipe.recv()
        except EOFError:
            return
        answer = counting.metrics.text() if verb == "text" else getattr(counting, verb)(*arguments)
        pipe.send(answer)


class Sibling:
    """Another process, that does what it is told."""

    def __init__(self, folder: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_obey, args=(folder, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def do(self, *order: Any) -> Any:
        """Its answer."""
        self._pipe.send(order)
        assert self._pipe.poll(30)
        return self._pipe.recv()

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.join()
        self._pipe.close()


def values(text: bytes) -> dict[str, float]:
    """Each sample, as it is written."""
    return {
        f"{sample.name}{sorted(sample.labels.items())}": sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


REQUESTS, RUNNING = "requests_total[('model', 'm')]", "running[('model', 'm')]"


@pytest.fixture
def sibling(tmp_path: Path) -> Iterator[Callable[[], Sibling]]:
    """Starts siblings."""
    running: list[Sibling] = []

    def start() -> Sibling:
        running.append(Sibling(tmp_path))
        return running[-1]

    yield start
    for each in running:
        each.kill()


def test_alone_it_shows_what_it_has() -> None:
    alone = Counting(None)
    alone.work("m", 3)
    shown = values(alone.metrics.text())
    assert (shown[REQUESTS], shown[RUNNING]) == (3, 1)
    alone.metrics.close()


def test_the_sum_of_all_whoever_is_asked(tmp_path: Path, sibling: Callable[[], Sibling]) -> None:
    ours, theirs = Counting(tmp_path), sibling()
    ours.work("m", 3)
    theirs.do("work", "m", 4)
    theirs.do("work", "n", 1)
    first = values(theirs.do("text"))
    assert first[REQUESTS] == 4, "ours have not been written yet"
    shown = values(ours.metrics.text())
    assert shown == values(theirs.do("text"))
    assert (shown[REQUESTS], shown["requests_total[('model', 'n')]"], shown[RUNNING]) == (7, 1, 2)
    assert [shown[f"seconds_bucket[('le', '{le}')]"] for le in ("1.0", "2.0", "+Inf")] == [0, 8, 8]
    assert (shown["seconds_count[]"], shown["seconds_sum[]"]) == (8, 12)
    assert not [name for name in shown if "_created" in name]
    assert b"# HELP requests_total Requests.\n# TYPE requests_total counter\n" in ours.metrics.text()


def test_what_a_killed_process_counted_stays_and_what_it_had_goes(
    tmp_path: Path, sibling: Callable[[], Sibling]
) -> None:
    ours, theirs = Counting(tmp_path), sibling()
    ours.work("m", 1)
    theirs.do("work", "m", 10)
    shown = values(theirs.do("text"))
    assert shown[REQUESTS] == 10
    theirs.kill()
    for _ in range(2):  # the second time they are added up already
        after = values(ours.metrics.text())
        assert (after[REQUESTS], after[RUNNING], after["seconds_count[]"]) == (11, 1, 11)
    successor = sibling()
    successor.do("work", "m", 5)
    assert values(successor.do("text"))[REQUESTS] == 16
    successor.kill()
    assert values(ours.metrics.text())[REQUESTS] == 16
    assert len(list(tmp_path.glob("*.counted"))) == 1, "there are never more than there are processes"


def test_one_that_ended_in_good_order_has_said_all(tmp_path: Path) -> None:
    ours, theirs = Counting(tmp_path), Counting(tmp_path)
    theirs.work("m", 5)
    theirs.metrics.close()
    theirs.metrics.close()  # again is fine
    shown = values(ours.metrics.text())
    assert shown[REQUESTS] == 5
    assert RUNNING not in shown


def test_one_that_died_while_adding_up_makes_nobody_count_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = Counting(tmp_path), Counting(tmp_path)
    theirs.work("m", 5)
    theirs.metrics.close()

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", killed)  # they are in the file of the dead by then
        with pytest.raises(KeyboardInterrupt):
            ours.metrics.text()
    assert len(list(tmp_path.glob("*.counted"))) == 2
    assert values(ours.metrics.text())[REQUESTS] == 5


def test_a_folder_that_is_gone_hides_the_siblings_only(tmp_path: Path) -> None:
    ours = Counting(tmp_path / "metrics")
    ours.work("m", 3)
    shutil.rmtree(tmp_path / "metrics")
    assert values(ours.metrics.text())[REQUESTS] == 3
    ours.metrics.close()


@pytest.mark.anyio
async def test_it_writes_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_metrics, "_EVERY_SECONDS", 0.01)
    ours, theirs = Counting(tmp_path), Counting(tmp_path)
    running = asyncio.create_task(theirs.metrics.run())
    theirs.work("m", 2)
    async with asyncio.timeout(10):
        while values(ours.metrics.text()).get(REQUESTS) != 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


SAMPLES = st.dictionaries(st.sampled_from(["a", "b", "c"]), st.integers(0, 100), max_size=3)


@given(st.lists(SAMPLES, max_size=5))
def test_adding_up(several: list[dict[str, int]]) -> None:
    counted = [
        {"x": {"type": "counter", "help": "X.", "samples": [["x_total", {"m": m}, n] for m, n in one.items()]}}
        for one in several
    ]
    total = {labels["m"]: value for _, labels, value in added(counted).get("x", {"samples": []})["samples"]}
    assert total == {m: sum(one.get(m, 0) for one in several) for m in {m for one in several for m in one}}
    assert counted == [
        {"x": {"type": "counter", "help": "X.", "samples": [["x_total", {"m": m}, n] for m, n in one.items()]}}
        for one in several
    ], "what was added is as it was"


@pytest.mark.anyio
async def test_a_collector_that_fails_once_does_not_end_the_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_metrics, "_EVERY_SECONDS", 0.01)
    ours, theirs = Counting(tmp_path), Counting(tmp_path)
    fails = [RuntimeError("dictionary changed size during iteration")]

    def running_now() -> float:
        if fails:
            raise fails.pop()
        return 7

    Gauge("waiting", "Waiting.", registry=theirs.registry).set_function(running_now)
    running = asyncio.create_task(theirs.metrics.run())
    async with asyncio.timeout(10):
        while b"waiting 7.0" not in await asyncio.to_thread(ours.metrics.text):
            assert not running.done()
    assert not fails
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
