"""What the run of changes makes of what it saw; `python -m tests.rollout_run` changes a deployment under load."""

import dataclasses

import pytest

from tests.live.asked import asked, lost
from tests.live.load import Asked
from tests.rollout_run import Roll, RollBack, seen, summary

ROLL = Roll(seconds=9.5, fewest=2, requests=100, failed=0, cut=0, wrong=0)
BACK = RollBack(seconds=4.0, untouched=True, reason="m-2: bad", requests=50, failed=0, cut=0, wrong=0)


@pytest.mark.parametrize(
    ("roll", "back", "requests", "right"),
    [
        pytest.param(ROLL, BACK, [asked("chat"), asked("chat streamed")], True, id="nobody noticed"),
        pytest.param(ROLL, BACK, [lost("chat")], False, id="a request failed"),
        pytest.param(ROLL, BACK, [lost("chat streamed")], False, id="a stream was cut"),
        pytest.param(ROLL, BACK, [asked("chat", wrong="'a', not 'b'")], False, id="a wrong answer"),
        pytest.param(dataclasses.replace(ROLL, seconds=None), BACK, [], False, id="it never rolled out"),
        pytest.param(dataclasses.replace(ROLL, fewest=1), BACK, [], False, id="fewer ran than were wanted"),
        pytest.param(ROLL, dataclasses.replace(BACK, seconds=None), [], False, id="it was not rolled back"),
        pytest.param(ROLL, dataclasses.replace(BACK, seconds=61.0), [], False, id="it was rolled back too late"),
        pytest.param(ROLL, dataclasses.replace(BACK, untouched=False), [], False, id="an old one was touched"),
    ],
)
def test_what_must_never_be(roll: Roll, back: RollBack, requests: list[Asked], right: bool) -> None:
    assert summary([roll], back, requests, replicas=2)["ok"] is right


def test_streams_that_had_begun_are_cut_and_all_else_fails() -> None:
    everything = [lost("chat streamed"), lost("chat streamed", first_byte=None), lost("chat"), asked("chat")]
    assert seen(everything) == {"requests": 4, "failed": 2, "cut": 1, "wrong": 0}
