"""What the long run of faults makes of its trials; `python -m tests.faults_run` does them."""

import base64
import dataclasses

import pytest

from tests.faults.audit import Findings
from tests.faults.doors import tells_something
from tests.faults.load import Outage
from tests.faults.trial import Trial
from tests.faults_run import summaries, wrong

NOTHING = Outage(lost=0, cut=0, refused=0, hung=0, wrong=0, failing_fast=None, answering=0.0, taking=0.0, slowest=0.8)
OUT = Outage(lost=9, cut=2, refused=7, hung=0, wrong=0, failing_fast=0.1, answering=6.0, taking=5.0, slowest=1.2)
PLACED: dict[str, object] = {"differing_answers": []}


def trial(seen: Outage, **fields: object) -> Trial:
    told = {"whom": "w1", "restarts": 1, "load_seconds": 2.0, "lost_after": 0, "settled": 7.0} | fields
    return Trial(fault="rpc-server", seen=seen, **told)  # type: ignore[arg-type]


def test_a_row_has_the_median_and_the_worst() -> None:
    (row,) = summaries([trial(OUT), trial(NOTHING, restarts=0), trial(OUT, load_seconds=4.0, lost_after=1)])
    assert row["times"] == 3
    assert row["answering"] == [6.0, 6.0]
    assert row["failing_fast"] == [0.1, 0.1]
    assert row["load"] == [2.0, 4.0]
    assert row["lost"] == [9, 0, 9]
    assert row["lost_after"] == [0, 0, 1]
    assert not wrong(PLACED, [row])


@pytest.mark.parametrize(
    "bad",
    [
        trial(OUT, findings=Findings(orphans=("w1: rpc smol.1 (pid 7)",)), settled=None),
        trial(OUT, findings=Findings(claims=("smol.1 on w1/cpu",)), settled=None),
        trial(OUT, findings=Findings(missing=("w1: no main",)), settled=None),
        trial(Outage(**(vars(OUT) | {"answering": None}))),
        trial(Outage(**(vars(OUT) | {"wrong": 1}))),
    ],
)
def test_what_must_never_be_is_wrong(bad: Trial) -> None:
    assert wrong(PLACED, summaries([trial(OUT), bad]))


def test_of_some_faults_nobody_may_see_anything() -> None:
    unseen = Trial(
        fault="control-plane", whom="it", seen=NOTHING, restarts=0, load_seconds=2.0, lost_after=0, settled=15.0
    )
    assert not wrong(PLACED, summaries([unseen]))
    assert wrong(PLACED, summaries([dataclasses.replace(unseen, restarts=1)]))
    assert wrong(PLACED, summaries([dataclasses.replace(unseen, lost_after=1)]))


def test_a_different_answer_is_wrong() -> None:
    assert wrong({"differing_answers": ["Name three fruits.: 'a' alone, 'b' here"]}, [])


@pytest.mark.parametrize(
    ("heard", "told"),
    [
        (b"", False),
        (bytes.fromhex("15030300020232"), False),  # TLS: a fatal alert
        (b"HTTP/1.1 401 Unauthorized\r\n", True),
        (bytes(25), True),
        (bytes.fromhex("15030300020232") * 4, True),  # more than two alerts
    ],
)
def test_what_is_told_to_a_stranger(heard: bytes, told: bool) -> None:
    found = {"bytes": len(heard), "begin": base64.b64encode(heard).decode()}
    assert tells_something(found, heard) is told
