"""What pages draw, from what the API reads: numbers in, shapes and words out."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.schemas.usage import UsageGroupRead
from api.schemas.workers import DeviceRead, WorkerRead
from api.web.fleet_view import meter_of, totals_of
from api.web.forms import Form
from api.web.rendering import age_of, seconds_text
from api.web.usage_view import HEIGHT, WIDTH, chart_of
from api.web.what_if import question_of
from stoker.domain.statuses import WorkerStatus
from stoker.domain.units import GIB
from stoker.domain.usage import UsageBy
from stoker.domain.workers import DeviceKind, WorkerState
from tests.builders import make_device, make_worker

NOW = datetime(2026, 3, 10, 12, 34, 56, tzinfo=UTC)


def device(total: int, reserve: int, claimed: int, used: int) -> DeviceRead:
    return DeviceRead(
        id="gpu0",
        kind=DeviceKind.CUDA,
        name="",
        compute_capability="",
        unified=False,
        total_bytes=total,
        reserve_bytes=reserve,
        claimed_bytes=claimed,
        used_bytes=used,
        allocatable_bytes=total - reserve - max(claimed, used),
    )


@pytest.mark.parametrize(
    ("total", "reserve", "claimed", "used", "parts"),
    [
        (100, 0, 0, 0, (0, 0, 100, 0, 0)),
        (100, 10, 40, 0, (40, 0, 50, 10, 0)),
        (100, 10, 40, 60, (40, 20, 30, 10, 60)),
        (100, 10, 40, 95, (40, 50, 0, 10, 95)),  # more is in use than may be claimed
        (100, 10, 95, 0, (90, 0, 0, 10, 0)),  # claimed before it was reserved
        (0, 0, 0, 0, (0, 0, 0, 0, 0)),
    ],
)
def test_a_meter(total: int, reserve: int, claimed: int, used: int, parts: tuple[float, ...]) -> None:
    meter = meter_of(device(total, reserve, claimed, used))
    if total:
        assert meter[:5] == parts
    else:
        assert meter.claimed == meter.reserved == meter.measured == 0


@given(
    total=st.integers(1, 1 << 50), reserve=st.integers(0, 1 << 50), claimed=st.integers(0, 1 << 51), used=st.integers(0)
)
def test_a_meter_is_full_and_no_part_is_beyond_it(total: int, reserve: int, claimed: int, used: int) -> None:
    meter = meter_of(device(total, reserve, claimed, used))
    parts = (meter.claimed, meter.other, meter.free, meter.reserved)
    assert sum(parts) == pytest.approx(100)
    assert all(0 <= part <= 100 for part in (*parts, meter.measured))


def test_totals_count_what_reports() -> None:
    silent = make_worker(name="silent", state=WorkerState.UNREACHABLE)
    there = make_worker(devices=(make_device(used=3 * GIB, reserve=GIB), make_device(kind=DeviceKind.CPU, used=GIB)))
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    statuses = [WorkerStatus(worker=worker, joined_at=moment, seen_at=moment) for worker in (silent, there)]
    gpus, cpus = totals_of([WorkerRead.of_status(status) for status in statuses])
    assert gpus[1:] == (1, 24 * GIB, 0, 3 * GIB, 20 * GIB, GIB)
    assert cpus[1:] == (1, 64 * GIB, 0, GIB, 63 * GIB, 0)


def test_a_meter_says_the_same_in_words() -> None:
    text = meter_of(device(24 * GIB, GIB, 10 * GIB, 4 * GIB)).text
    assert text == "10 GiB claimed, 4 GiB measured in use, 13 GiB free and 1 GiB reserved of 24 GiB"


def group(name: str, read: int, written: int) -> UsageGroupRead:
    return UsageGroupRead(
        group=name,
        requests=1,
        errors=0,
        gone=0,
        input_tokens=read,
        output_tokens=written,
        cached_tokens=0,
        mean_time_to_first_token=None,
        mean_time_per_output_token=None,
        mean_duration=None,
    )


def test_a_chart_has_days_in_which_nothing_was() -> None:
    groups = [group("2026-03-07", 60, 40), group("2026-03-09", 10, 10)]
    chart = chart_of(groups, UsageBy.DAY, NOW - timedelta(days=4), NOW)
    assert chart is not None
    assert [bar.label for bar in chart.bars] == [f"2026-03-{day:02d}" for day in range(6, 11)]
    assert [bar.input_tokens for bar in chart.bars] == [0, 60, 0, 10, 0]
    assert (chart.highest, chart.first, chart.last) == (100, "2026-03-06", "2026-03-10")
    tallest = chart.bars[1]
    assert tallest.read_y == pytest.approx(0)
    assert tallest.read_height + tallest.written_height == pytest.approx(HEIGHT)
    assert all(0 <= bar.x <= bar.x + bar.width <= WIDTH for bar in chart.bars)


def test_a_chart_of_hours() -> None:
    chart = chart_of([group("2026-03-10T11:00:00Z", 5, 0)], UsageBy.HOUR, NOW - timedelta(hours=3), NOW)
    assert chart is not None
    assert [bar.label[-5:] for bar in chart.bars] == ["09:00", "10:00", "11:00", "12:00"]
    assert [bar.input_tokens for bar in chart.bars] == [0, 0, 5, 0]


def test_no_chart_of_nothing_and_none_without_end() -> None:
    assert chart_of([], UsageBy.DAY, None, NOW) is None
    long = chart_of([group("2019-01-01", 1, 1), group("2026-03-10", 3, 4)], UsageBy.DAY, None, NOW)
    assert long is not None
    assert len(long.bars) == 366
    assert (long.last, long.bars[-1].output_tokens) == ("2026-03-10", 4)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59, "59 s"), (60, "1 min"), (5400, "2 h"), (86_400, "24 h"), (3 * 86_400, "3 d")]
)
def test_ages(seconds: int, text: str) -> None:
    assert age_of(NOW - timedelta(seconds=seconds), NOW) == text
    assert age_of(NOW + timedelta(seconds=seconds), NOW) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "\N{EN DASH}"), (0.0811, "81.1 ms"), (1.456, "1.46 s"), (190, "3.17 min")]
)
def test_short_times(seconds: float | None, text: str) -> None:
    assert seconds_text(seconds) == text


def test_a_forms_values() -> None:
    form = Form({"name": ["  a b "], "empty": [" "], "many": ["x", "", "y"], "count": ["1_000"], "csrf": ["t"]})
    assert (form.get("name"), form.get("empty", "none"), form.all("many")) == ("a b", "none", ["x", "y"])
    assert ("name" in form, "empty" in form, "absent" in form) == (True, False, False)
    assert (form.number("count"), form.number("name"), form.number("empty")) == (1000, "a b", None)
    assert Form({"list": ["a, b c,,d"]}).words("list") == ["a", "b", "c", "d"]
    assert "csrf" not in form.values()


@pytest.mark.parametrize(
    ("fields", "question"),
    [
        ({"ask": "drain", "drain": "w1", "model": "x"}, {"add": [], "without": [], "drain": "w1"}),
        (
            {"ask": "name", "name": "a", "add": "4x24GiB 1x8GiB"},
            {"add": ["4x24GiB", "1x8GiB"], "without": [], "name": "a"},
        ),
        (
            {"ask": "model", "model": "hf:a/b", "replicas": "2", "context_length": "4096"},
            {
                "add": [],
                "without": [],
                "deployment": {
                    "name": "what-if",
                    "model": "hf:a/b",
                    "replicas": 2,
                    "options": {"context_length": 4096},
                },
            },
        ),
    ],
)
def test_what_is_asked(fields: dict[str, str], question: dict[str, object]) -> None:
    assert question_of(Form({name: [value] for name, value in fields.items()})) == question
