"""What the run of killed replicas makes of its trials; `python -m tests.failover_run` kills them."""

import dataclasses
from datetime import UTC, datetime

import pytest

from tests.failover_run import Kill, failures, is_streaming, summary
from tests.live.load import Asked, Key, Turn
from tests.live.questions import questions

ASK = questions("m", tokens=4, prompt="a")
CLEAN = Kill("m-1", streaming=2, lost_streaming=0, lost_others=0, wrong=0, moved=3, last_tried=0.1, back=2.5)


def asked(name: str, **fields: object) -> Asked:
    told = {"start": 1.0, "end": 2.0, "first_byte": 1.5, "status": 200, "tokens": None} | fields
    return Asked(turn=Turn(ASK[name], Key("app", "1", "sk-1")), **told)  # type: ignore[arg-type]


def lost(name: str, **fields: object) -> Asked:
    return asked(name, lost=True, wrong="the connection ended", **fields)


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


def test_only_who_has_seen_a_part_was_streaming() -> None:
    assert is_streaming(lost("chat streamed"))
    assert not is_streaming(lost("chat streamed", first_byte=None))
    assert not is_streaming(lost("chat"))


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
