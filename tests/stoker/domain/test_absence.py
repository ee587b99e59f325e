"""Who is lost, and when nobody is because too many are silent at once."""

from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.domain.absence import (
    LEAST_GRACE_SECONDS,
    QUIET_SECONDS,
    Absence,
    LastReport,
    Listening,
    follow,
    is_too_many,
    judge,
)
from stoker.domain.reports import REPORT_EVERY_SECONDS

GRACE = 30.0
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
LOOK = 2.5


class Fleet:
    """Workers that report every five seconds, each a little later than the one before, and who looks at them."""

    def __init__(self, *names: str, holding: Collection[str] | None = None, look: float = LOOK) -> None:
        self.now = 0.0
        self.holding = set(names if holding is None else holding)
        self.silent: set[str] = set()
        self.reports_are_taken = self.looks = True
        self.listening, self.found = Listening(), Absence()
        self._look = look
        self._taken = dict.fromkeys(names, BEGAN)
        self._due = {name: number * REPORT_EVERY_SECONDS / len(names) for number, name in enumerate(names)}

    def run(self, seconds: float, see: Callable[[Absence], None] = lambda _: None) -> Absence:
        """Lets time pass; what the last look found. `see` is told of each."""
        end = self.now + seconds
        while self.now < end:
            self.now += self._look
            for name, due in self._due.items():
                if name in self.silent or not self.reports_are_taken:
                    self._due[name] = max(due, self.now)  # it tries again and again
                elif due <= self.now:
                    self._taken[name] = BEGAN + timedelta(seconds=self.now)
                    self._due[name] = self.now + REPORT_EVERY_SECONDS
            if self.looks:
                self.listening = self.listening.looked(
                    [LastReport(worker=n, taken_at=at, holds=n in self.holding) for n, at in self._taken.items()],
                    1000 + self.now,
                )
                self.listening, self.found = follow(self.found, self.listening, self.holding, GRACE)
                see(self.found)
        return self.found

    def remove(self, name: str) -> None:
        """As an administrator does."""
        del self._taken[name], self._due[name]
        self.holding.discard(name)

    def gone(self, *names: str) -> None:
        """They fall silent, and nothing is left on them once they are lost: as the control plane would move it."""
        self.silent |= set(names)


NAMES = tuple(f"w{number}" for number in range(1, 21))


@pytest.mark.parametrize(
    ("silent", "there", "too_many"),
    [
        (1, 1, False),
        (1, 2, False),
        (1, 3, False),
        (2, 2, True),
        (2, 3, True),
        (2, 6, True),
        (2, 7, False),
        (3, 10, False),
        (4, 10, True),
        (60, 200, False),
        (61, 200, True),
        (0, 0, False),
    ],
)
def test_how_many_are_too_many(silent: int, there: int, too_many: bool) -> None:
    assert is_too_many(silent, there) is too_many


@pytest.mark.parametrize("size", [2, 3, 4, 10])
def test_one_dead_host_is_lost_after_the_grace_and_not_before(size: int) -> None:
    fleet = Fleet(*NAMES[:size])
    assert fleet.run(60) == Absence()
    fleet.gone("w1")
    assert fleet.run(GRACE - REPORT_EVERY_SECONDS) == Absence()
    assert fleet.run(3 * REPORT_EVERY_SECONDS) == Absence(lost=("w1",))
    assert fleet.run(3600) == Absence(lost=("w1",)), "as long as it holds something"
    fleet.holding.discard("w1")
    assert fleet.run(LOOK) == Absence()


def test_one_that_comes_back_in_time_is_not_lost() -> None:
    fleet = Fleet("w1", "w2")
    fleet.run(20)
    fleet.gone("w1")
    fleet.run(GRACE - REPORT_EVERY_SECONDS)
    fleet.silent.clear()
    assert fleet.run(60, lambda absence: _none(absence)) == Absence()


def test_the_only_one_is_never_lost_but_its_silence_is_told() -> None:
    fleet = Fleet("w1")
    fleet.run(20)
    fleet.gone("w1")
    absence = fleet.run(GRACE + 4 * LOOK)
    assert (absence.lost, absence.held_back) == ((), ("w1",))
    assert "no worker's report has been taken for 42 s" in absence.alarm


@pytest.mark.parametrize(
    ("size", "silent", "moved"),
    [(2, 2, False), (3, 2, False), (6, 2, False), (7, 2, True), (10, 3, True), (10, 4, False)],
)
def test_many_at_once(size: int, silent: int, moved: bool) -> None:
    """Nothing is moved at any look, though each reported last at another moment."""
    fleet = Fleet(*NAMES[:size])
    fleet.run(20)
    fleet.gone(*NAMES[:silent])
    absence = fleet.run(120, _none if not moved else lambda _: None)
    names = tuple(sorted(NAMES[:silent]))
    if moved:
        assert absence == Absence(lost=names)
        return
    assert absence.held_back == names
    if silent < size:
        assert absence.alarm == (
            f"{silent} of {size} workers are silent at once ({', '.join(names)}), more than 30%: nothing is moved. "
            "Look at the network, the API and its database before the hosts"
        )
    for name in names:  # they come back one after the other
        assert fleet.run(2 * REPORT_EVERY_SECONDS, _none).lost == ()
        fleet.silent.discard(name)
    assert fleet.run(2 * REPORT_EVERY_SECONDS, _none) == Absence(), "nothing is latched"


def test_who_does_not_come_back_when_the_others_do_is_lost_after_the_grace() -> None:
    fleet = Fleet("w1", "w2", "w3")
    fleet.run(20)
    fleet.gone("w1", "w2")
    assert fleet.run(300).held_back == ("w1", "w2")
    fleet.silent.discard("w1")
    assert fleet.run(GRACE - LOOK, _none) == Absence()
    assert fleet.run(4 * REPORT_EVERY_SECONDS) == Absence(lost=("w2",))


def test_idle_ones_that_fall_silent_with_it_count() -> None:
    fleet = Fleet("w1", "w2", "w3", holding=["w1"])
    fleet.run(20)
    fleet.gone("w1", "w2")
    assert fleet.run(300, _none).held_back == ("w1",)
    fleet.remove("w2")  # an administrator says that it really is gone
    assert fleet.run(GRACE - LOOK, _none) == Absence()
    assert fleet.run(2 * REPORT_EVERY_SECONDS) == Absence(lost=("w1",))


def test_one_that_died_earlier_and_was_moved_does_not_count() -> None:
    fleet = Fleet("w1", "w2", "w3")
    fleet.run(20)
    fleet.gone("w1")
    assert fleet.run(40).lost == ("w1",)
    fleet.holding.discard("w1")
    fleet.gone("w2")
    assert fleet.run(40) == Absence(lost=("w2",))


def test_those_that_hold_nothing_raise_no_alarm() -> None:
    fleet = Fleet("w1", "w2", "w3", holding=["w3"])
    fleet.run(20)
    fleet.gone("w1", "w2")
    assert fleet.run(3600, _none) == Absence()


def test_an_alarm_names_the_first() -> None:
    fleet = Fleet(*NAMES)
    fleet.run(20)
    fleet.gone(*NAMES[:8])
    assert "8 of 20 workers are silent at once (w1, w2, w3, w4, w5 and 3 more)" in fleet.run(60).alarm


@pytest.mark.parametrize("gap", [7.5, 20.0, 60.0, 3600.0])
@pytest.mark.parametrize("what", ["reports_are_taken", "looks"])
def test_a_gap_is_nobodys_silence(what: str, gap: float) -> None:
    """The API or the database is away, or the looker was: afterwards everybody has the whole grace again."""
    fleet = Fleet("w1", "w2", "w3")
    fleet.run(20)
    setattr(fleet, what, False)
    fleet.run(gap, lambda absence: _same(absence.lost, ()))
    setattr(fleet, what, True)
    fleet.gone("w1")  # it did not outlive the gap
    if gap > QUIET_SECONDS:
        fleet.run(GRACE - 2 * LOOK, _none)
    assert fleet.run(2 * GRACE) == Absence(lost=("w1",))


def test_a_looker_that_begins_does_not_judge_by_what_it_did_not_see() -> None:
    fleet = Fleet("w1", "w2", "w3", "w4")
    fleet.looks = False
    fleet.gone("w1", "w2")
    fleet.run(3600)
    fleet.looks = True
    assert fleet.run(GRACE - 2 * LOOK, _none) == Absence()
    assert fleet.run(GRACE).held_back == ("w1", "w2")


def test_clocks_that_go_back_are_no_silence() -> None:
    """The moments are of the API's clock: any other one is news."""
    first = LastReport(worker="w1", taken_at=BEGAN, holds=True)
    earlier = LastReport(worker="w1", taken_at=BEGAN - timedelta(hours=1), holds=True)
    heard = Listening().looked([first], 0.0).looked([earlier], 2.0)
    assert (heard.unheard_seconds, heard.silences()) == (0.0, {"w1": 0.0})


@given(
    silent=st.sets(st.sampled_from(NAMES[:12])),
    holding=st.sets(st.sampled_from(NAMES[:12])),
    then=st.lists(st.tuples(st.sampled_from(["looks", "reports_are_taken"]), st.floats(1, 120)), max_size=3),
    look=st.sampled_from([1.0, 2.5, 4.0]),
)
def test_whatever_happens(silent: set[str], holding: set[str], then: list[tuple[str, float]], look: float) -> None:
    fleet = Fleet(*NAMES[:12], holding=holding, look=look)
    fleet.run(20)
    fleet.gone(*silent)

    def check(absence: Absence) -> None:
        assert set(absence.lost) <= silent & holding, "only who is silent and holds something is moved"
        assert not (absence.lost and absence.alarm)
        assert bool(absence.held_back) is bool(absence.alarm)
        if len(silent) > 3:  # of 12: 3.6 are 30 %; those that hold something make the alarm
            together = silent if silent & holding else set()
            assert not (is_too_many(len(together), 12) and absence.lost)

    for what, seconds in then:
        setattr(fleet, what, False)
        fleet.run(seconds, check)
        setattr(fleet, what, True)
        fleet.run(10.0, check)
    end = fleet.run(2 * GRACE + 10, check)
    if silent & holding and len(silent) < 12:
        assert bool(end.lost) is not is_too_many(len(silent), 12)


@given(st.floats(LEAST_GRACE_SECONDS, 600), st.dictionaries(st.sampled_from(NAMES), st.floats(0, 1000), min_size=1))
def test_a_longer_grace_never_loses_more(grace: float, silences: Mapping[str, float]) -> None:
    heard = {name: (BEGAN, 1000.0 - silence) for name, silence in silences.items()}
    listening = Listening.model_validate({"seconds": 1000.0, "looked_at": 0.0, "heard": heard})
    short, long = (judge(listening, silences, seconds) for seconds in (grace, grace + 10))
    assert {*long.lost, *long.held_back} <= {*short.lost, *short.held_back}


def _none(absence: Absence) -> None:
    assert absence.lost == ()


def _same(found: object, expected: object) -> None:
    assert found == expected
