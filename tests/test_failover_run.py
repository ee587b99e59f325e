"""What the run of killed replicas makes of its trials; `python -m tests.failover_run` kills them."""

import dataclasses
from datetime import UTC, datetime

import pytest

from tests.failover_run import Kill, failures, summary
from tests.live.asked import asked, lost
from tests.live.load import Asked

CLEAN = Kill("m-1", streaming=2, lost_streaming=0, lost_others=0, wrong=0, moved=3, last_tried=0.1, back=2.5)


@pytest.mark.parametrize(
    ("kill", "requests", "right"),
    [
        pytest.param(CLEAN, [asked("chat"), asked("chat streamed")], True, id="nobody noticed"),
        pytest.param(
            dataclasses.replace(CLEAN, lost_streaming=1), [lost("chat streamed")], True, id="it was streaming"
        ),
        pytest.param(dataclasses.replace(CLEAN, lost_others=1), [lost("chat")], False, id="it was not"),
        pytest.param(CLEAN, [lost("chat")], False, id="at another time"),
        pytest.param(CLEAN, [asked("chat", wrong="'a', not 'b'")], False, id="a wrong answer"),
        pytest.param(dataclasses.replace(CLEAN, back=None), [asked("chat")], False, id="never back"),
    ],
)
def test_what_must_never_be(kill: Kill, requests: list[Asked], right: bool) -> None:
    assert summary([kill], requests)["ok"] is right


def test_tries_are_read_from_the_log() -> None:
    log = "\n".join(
        [
            '{"instance": "m-1", "event": "engine_failed", "ts": "2026-03-01T10:00:00.500000Z"}',
            '{"instance": "m-2", "event": "engine_failed", "ts": "2026-03-01T10:00:01Z"}',
            '{"instance": "m-1", "event": "something_else", "ts": "2026-03-01T10:00:02Z"}',
            "no JSON",
        ]
    )
    assert failures(log, "m-1") == [datetime(2026, 3, 1, 10, 0, 0, 500_000, tzinfo=UTC)]
