"""The long run of placement, for a moment; `python -m tests.placement_run` goes on for longer."""

import json

import pytest

from stoker.domain.placement.types import Placement, Unplaceable
from tests.placement_run import read, run
from tests.stoker.domain.placement.fleets import Case
from tests.stoker.domain.placement.judge import judge


def test_what_is_wrong_is_found_and_can_be_judged_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(case: Case) -> Placement | Unplaceable:
        outcome = judge(case)
        assert not isinstance(outcome, Placement), f"{len(case.workers)} workers"
        return outcome

    monkeypatch.setattr("tests.placement_run.judge", broken)
    result = run(60, number=1)
    assert result.examples == 60
    assert list(result.outcomes) == ["nothing fits"]
    ((kind, count),) = result.faults.items()
    assert kind.startswith("AssertionError in test_placement_run.py")
    assert kind.endswith(": N workers")
    assert count == 60 - result.outcomes["nothing fits"]
    case = read(result.smallest[kind])
    assert isinstance(judge(case), Placement)
    assert json.loads(result.smallest[kind])["request"]["instance_id"] == "llama-0"
