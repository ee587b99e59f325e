"""Records and sums of usage: what is asked for is what was written, however it was written and cut."""

import math
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlmodel import Session, col, select

from stoker.domain.usage import GONE, UsageBy, UsageRecord, UsageSums, status_class
from stoker.storage.by_time import Stretch, place_of
from stoker.storage.engine import Database
from stoker.storage.migrate import migrate
from stoker.storage.tables import UsageBatchRow, UsageHourRow, UsageRow
from stoker.storage.usage import (
    forget_single_requests,
    hour_of,
    kept_from,
    split,
    tokens_since,
    usage_requests,
    usage_sums,
)
from stoker.storage.usage_writing import Batch, forget_recorder, sums_by_hour, write_batches

NOW = datetime(2026, 3, 10, 12, 34, 56, tzinfo=UTC)
HOUR = timedelta(hours=1)
ALWAYS = Stretch(None, None)


def record(ended_at: datetime = NOW, **values: object) -> UsageRecord:
    """A stream of the model m by the key k: 10 tokens read, 2 of them cached, 5 written."""
    usual = UsageRecord(
        ended_at.timestamp(), "k", "m", "m", "m-1", "/chat/completions", 200, True, 10, 5, 2, 0.25, 1.25
    )
    return usual._replace(**values)  # type: ignore[arg-type]


def write(database: Database, *batches: Iterable[UsageRecord], recorder: str = "r", first: int = 1) -> int:
    """Writes the batches, numbered from `first`."""
    numbered = [Batch(number, list(records)) for number, records in enumerate(batches, first)]
    with database.write() as session:
        return write_batches(session, recorder, numbered, NOW)


def naive(by: UsageBy, records: Iterable[UsageRecord]) -> dict[str, UsageSums]:
    """The sums, counted in the plainest way."""
    found: dict[str, UsageSums] = {}
    for one in records:
        ended = datetime.fromtimestamp(one.ended_at, UTC)
        group = {
            UsageBy.MODEL: one.model,
            UsageBy.KEY: one.key_id,
            UsageBy.STATUS: status_class(one.status),
            UsageBy.HOUR: ended.strftime("%Y-%m-%dT%H:00:00Z"),
            UsageBy.DAY: ended.strftime("%Y-%m-%d"),
        }[by]
        streamed = one.first_token_seconds > 0
        went_on = streamed and one.output_tokens > 1
        mine = UsageSums(
            1,
            int(one.status >= 400 and one.status != GONE),
            int(one.status == GONE),
            one.input_tokens,
            one.output_tokens,
            one.cached_tokens,
            one.first_token_seconds,
            int(streamed),
            one.seconds - one.first_token_seconds if went_on else 0.0,
            one.output_tokens - 1 if went_on else 0,
            one.seconds,
        )
        found[group] = found.get(group, UsageSums()).plus(mine)
    return found


def assert_same(found: dict[str, UsageSums], expected: dict[str, UsageSums]) -> None:
    """Numbers are the same, seconds nearly: they are added up in another order."""
    assert found.keys() == expected.keys()
    for group, sums in found.items():
        for name, ours, theirs in zip(UsageSums._fields, sums, expected[group], strict=True):
            assert math.isclose(ours, theirs, rel_tol=1e-9, abs_tol=1e-6), (group, name)
            assert isinstance(ours, type(theirs)), (group, name)


@contextmanager
def emptied(database: Database) -> Iterator[None]:
    """No usage is known."""
    with database.write() as session:
        for row in (UsageRow, UsageHourRow, UsageBatchRow):
            session.execute(text(f"DELETE FROM {row.__tablename__}"))  # noqa: S608 - a name
    yield


def test_a_record_is_read_back_as_it_was_written(database: Database) -> None:
    odd = "a\tb\\n\n'\"%s{}\u2603"
    records = [
        record(NOW, asked=odd, key_id="", instance_id="", first_token_seconds=0.0, streamed=False, status=GONE),
        record(NOW + timedelta(microseconds=1), input_tokens=2**53, seconds=1e-9),
    ]
    assert write(database, records) == 2
    with database.read() as session:
        found = [one.record for one in usage_requests(session, ALWAYS, limit=10)]
    assert found == [records[1], records[0]]


def test_a_batch_that_is_sent_again_is_there_once(database: Database) -> None:
    assert write(database, [record()], [record(), record()]) == 3
    assert write(database, [record()], [record(), record()], [record()]) == 4
    assert write(database, [record()]) == 4
    assert write(database) == 4
    assert write(database, [record()], recorder="another") == 1
    with database.read() as session:
        assert usage_sums(session, UsageBy.MODEL, ALWAYS, kept=NOW)["m"].requests == 5
        assert len(usage_requests(session, ALWAYS, limit=10)) == 5
        rows = session.exec(select(UsageBatchRow.recorder, UsageBatchRow.batch).order_by(UsageBatchRow.recorder)).all()
    assert rows == [("another", 1), ("r", 3)]
    with database.write() as session:
        forget_recorder(session, "r")
    with database.read() as session:
        assert session.exec(select(UsageBatchRow.recorder)).all() == ["another"]


def test_a_batch_that_fails_leaves_nothing(database: Database) -> None:
    broken = record(model=None)
    with pytest.raises(DBAPIError):
        write(database, [record()], [record()], [record(), broken])
    with database.read() as session:
        assert usage_sums(session, UsageBy.MODEL, ALWAYS, kept=NOW) == {}
        assert usage_requests(session, ALWAYS, limit=10) == []
    assert write(database, [record()]) == 1


def test_a_batch_that_an_earlier_attempt_is_still_writing_is_there_once(database: Database) -> None:
    """The first attempt's connection is given up while the database goes on with it, and commits."""
    begun, written = threading.Event(), threading.Event()

    def first() -> None:
        with database.write() as session:
            write_batches(session, "r", [Batch(1, [record()])], NOW)
            begun.set()
            assert not written.wait(0.3), "the second attempt waits for the first"

    thread = threading.Thread(target=first)
    thread.start()
    assert begun.wait(10)
    assert write(database, [record()], [record()]) == 2
    written.set()
    thread.join()
    with database.read() as session:
        assert usage_sums(session, UsageBy.MODEL, ALWAYS, kept=NOW)["m"].requests == 2


def test_recorders_that_write_the_same_hours_at_once_lose_nothing(database: Database) -> None:
    models = [f"m{number}" for number in range(6)]

    def work(recorder: str, order: list[str]) -> None:
        for number in range(1, 9):
            batch = Batch(number, [record(model=model) for model in order])
            with database.write() as session:
                write_batches(session, recorder, [batch], NOW)

    orders = (models, models[::-1], models[3:] + models[:3])
    threads = [threading.Thread(target=work, args=(f"r{n}", order)) for n, order in enumerate(orders)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.read() as session:
        found = usage_sums(session, UsageBy.MODEL, ALWAYS, kept=NOW)
    assert {model: sums.requests for model, sums in found.items()} == dict.fromkeys(models, 24)


def test_the_tokens_of_a_month_by_key(database: Database) -> None:
    begin = datetime(2026, 3, 1, tzinfo=UTC)
    late = begin - timedelta(microseconds=1)
    write(database, [record(late), record(begin), record(begin + timedelta(days=3)), record(key_id="other")])
    with database.read() as session:
        assert tokens_since(session, begin) == {"k": 30, "other": 15}
        assert tokens_since(session, begin + timedelta(days=31)) == {}


def test_single_requests_go_and_their_sums_stay(database: Database) -> None:
    old, young = NOW - timedelta(days=40), NOW - timedelta(days=1)
    records = [record(old), record(old - timedelta(minutes=7), status=500), record(young)]
    write(database, records)
    kept = kept_from(NOW, 30)
    gone = 0
    while True:
        with database.write() as session:
            count = forget_single_requests(session, kept)
        if not count:
            break
        gone += count
    assert gone == 2
    with database.read() as session:
        assert [one.record for one in usage_requests(session, ALWAYS, limit=10)] == [records[2]]
        for by in UsageBy:
            assert_same(usage_sums(session, by, ALWAYS, kept=kept), naive(by, records))
        some = Stretch(old + timedelta(minutes=1), None)  # an hour of which single requests are gone counts whole
        assert usage_sums(session, UsageBy.MODEL, some, kept=kept)["m"].requests == 3


def test_recorders_that_are_long_gone_are_forgotten(database: Database) -> None:
    write(database, [record()])
    with database.write() as session:
        forget_single_requests(session, NOW - timedelta(days=1))
        assert session.exec(select(UsageBatchRow.recorder)).all() == ["r"]
        forget_single_requests(session, NOW + timedelta(days=401))
        assert session.exec(select(UsageBatchRow.recorder)).all() == []


def test_pages_of_requests_newest_first(database: Database) -> None:
    moments = [NOW + timedelta(seconds=n // 2) for n in range(7)]  # pairs that ended at the same moment
    records = [record(moment, input_tokens=n, model="m" if n % 3 else "n") for n, moment in enumerate(moments)]
    write(database, records)
    seen: list[int] = []
    place = None
    with database.read() as session:
        while page := usage_requests(session, ALWAYS, limit=2, after=place):
            seen += [one.record.input_tokens for one in page]
            place = place_of(page[-1].cursor)
        assert seen == [6, 5, 4, 3, 2, 1, 0]
        some = usage_requests(session, Stretch(moments[2], moments[6]), limit=10, model="m", key_id="k")
        assert [one.record.input_tokens for one in some] == [5, 4, 2]
        assert usage_requests(session, ALWAYS, limit=10, key_id="another") == []


@pytest.mark.parametrize("cursor", ["", "-", "x-1", "1", "1-", "999999999999999999-1"])
def test_what_is_no_place_in_the_listing(cursor: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        place_of(cursor)


MINUTES = st.integers(-90 * 24 * 60, 0).map(lambda minutes: NOW + timedelta(minutes=minutes))
MOMENTS = st.one_of(MINUTES, MINUTES.map(hour_of))
RECENT = st.one_of(*(st.integers(-lowest, 0).map(lambda n: NOW + timedelta(seconds=n * 7)) for lowest in (900, 9000)))
RECORDS = st.builds(
    lambda moment, micro, **values: record(moment + timedelta(microseconds=micro), **values),
    RECENT,
    st.integers(-1, 1),
    key_id=st.sampled_from(["", "k1", "k2"]),
    model=st.sampled_from(["a", "b"]),
    status=st.sampled_from([200, 200, 404, 429, GONE, 500, 503]),
    input_tokens=st.integers(0, 2**40),
    output_tokens=st.integers(0, 4),
    cached_tokens=st.integers(0, 9),
    first_token_seconds=st.sampled_from([0.0, 0.5]),
    seconds=st.floats(0.5, 100),
)


@pytest.fixture(scope="module")
def reused(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A database that many examples are written to, one after the other."""
    url = f"sqlite:///{tmp_path_factory.mktemp('usage') / 'stoker.db'}"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgresql_url")
        database = Database(url)
        with database.engine.begin() as connection:
            connection.execute(text("DROP SCHEMA public CASCADE"))
            connection.execute(text("CREATE SCHEMA public"))
        database.close()
    database = Database(url)
    migrate(database)
    yield database
    database.close()


@pytest.mark.parametrize("reused", ["sqlite", "postgresql"], indirect=True)
@hypothesis_settings(max_examples=60)
@given(
    records=st.lists(RECORDS, max_size=12),
    by=st.sampled_from(UsageBy),
    since=st.one_of(st.none(), RECENT, RECENT.map(hour_of)),
    until=st.one_of(st.none(), RECENT, RECENT.map(hour_of)),
    model=st.sampled_from([None, "a"]),
    key=st.sampled_from([None, "k1"]),
)
def test_sums_are_those_of_a_naive_count(
    reused: Database,
    records: list[UsageRecord],
    by: UsageBy,
    since: datetime | None,
    until: datetime | None,
    model: str | None,
    key: str | None,
) -> None:
    if since is not None and until is not None and since >= until:
        since, until = until, since + timedelta(seconds=1)
    with emptied(reused):
        write(reused, *([one] for one in records))
        with reused.read() as session:
            found = usage_sums(session, by, Stretch(since, until), kept=kept_from(NOW, 30), model=model, key_id=key)
    wanted = [
        one
        for one in records
        if (since is None or one.ended_at >= since.timestamp())
        and (until is None or one.ended_at < until.timestamp())
        and model in (None, one.model)
        and key in (None, one.key_id)
    ]
    assert_same(found, naive(by, wanted))


@given(since=st.one_of(st.none(), MOMENTS), until=st.one_of(st.none(), MOMENTS), days=st.integers(0, 60), at=MOMENTS)
def test_each_moment_lies_in_one_part_of_what_is_asked_for(
    since: datetime | None, until: datetime | None, days: int, at: datetime
) -> None:
    if since is not None and until is not None and since >= until:
        since, until = until, since + timedelta(minutes=1)
    kept = kept_from(NOW, days)
    hours, pieces = split(Stretch(since, until), kept)

    def within(stretch: Stretch, moment: datetime) -> bool:
        return (stretch.since is None or stretch.since <= moment) and (stretch.until is None or moment < stretch.until)

    for piece, hour in pieces:
        assert piece.since is not None
        assert piece.until is not None
        assert hour >= kept, "single requests are there"
        assert hour <= piece.since < piece.until <= hour + HOUR
    for edge in (hours.since, hours.until):
        assert edge is None or edge == hour_of(edge)
    count = within(hours, hour_of(at)) + sum(within(piece, at) for piece, _ in pieces)
    asked = within(Stretch(since, until), at)
    if hour_of(at) >= kept:
        assert count == asked
    else:
        begin = None if since is None else hour_of(since)
        assert count == within(Stretch(begin, None if until is None else until), hour_of(at))


@given(st.lists(RECORDS, max_size=10))
def test_the_sums_of_hours_are_those_of_a_naive_count(records: list[UsageRecord]) -> None:
    by_hour: dict[str, UsageSums] = {}
    for (hour, *_), sums in sums_by_hour(records).items():
        name = datetime.fromtimestamp(hour, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        by_hour[name] = by_hour.get(name, UsageSums()).plus(sums)
    assert_same(by_hour, naive(UsageBy.HOUR, records))


def test_an_hour_is_that_of_the_moment_that_is_kept(database: Database) -> None:
    """Moments are kept to the microsecond: the last half one of an hour belongs to the next."""
    edge = hour_of(NOW).timestamp()
    write(database, [record()._replace(ended_at=edge - before) for before in (4e-7, 1.1e-6)])
    with database.read() as session:
        hours = session.exec(select(UsageHourRow.hour, UsageHourRow.requests).order_by(col(UsageHourRow.hour))).all()
        exact = usage_sums(session, UsageBy.MODEL, Stretch(NOW - HOUR, NOW), kept=kept_from(NOW, 30))
        rows = [row.ended_at for row in _rows(session)]
    assert [requests for _, requests in hours] == [1, 1]
    assert exact["m"].requests == 2
    assert [hour_of(moment) for moment in rows] == [hour for hour, _ in hours]


def _rows(session: Session) -> Iterable[UsageRow]:
    return session.exec(select(UsageRow).order_by(col(UsageRow.ended_at)))


def test_means() -> None:
    sums = UsageSums(requests=4, first_token_seconds=3.0, streams=2, next_tokens_seconds=1.0, next_tokens=10, seconds=8)
    assert sums.mean_first_token_seconds == 1.5
    assert sums.mean_seconds_per_token == pytest.approx(0.1)
    assert sums.mean_seconds == 2.0
    nothing = UsageSums()
    assert (nothing.mean_first_token_seconds, nothing.mean_seconds_per_token, nothing.mean_seconds) == (None,) * 3
