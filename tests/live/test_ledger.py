"""What replies add up to, what the database says, and a limit's refusals."""

import pytest

from tests.live.ledger import Account, accounts, differences, limit_faults, reached, recorded
from tests.live.load import Asked, Key, Turn
from tests.live.questions import Tokens, questions, refused_question

ASK = questions("m", tokens=4, prompt="a")
APP, QUIET = Key("app", "1", "sk-1"), Key("quiet", "2", "sk-2")


SOME = Tokens(5, 3)


def asked(start: float, tokens: Tokens | None = SOME, *, key: Key = APP, **fields: object) -> Asked:
    told = {"end": start + 1, "first_byte": start + 0.5, "status": 200, "tokens": tokens} | fields
    return Asked(turn=Turn(ASK["chat"], key), start=start, **told)  # type: ignore[arg-type]


def test_what_replies_add_up_to() -> None:
    refused = Turn(refused_question("unknown", ASK["chat"], 401, "invalid_api_key"), APP)
    all_of_them = [
        asked(0),
        asked(1, Tokens(7, 1)),
        asked(2, None, key=QUIET),
        asked(3, None, status=429, refused=True),
        asked(4, None, status=502, lost=True, wrong="status 502"),
        asked(5, None, lost=True, wrong="the connection ended"),
        Asked(refused, 6, 7, None, 401, None),
    ]
    assert accounts(all_of_them) == {"1": Account(2, 12, 4), "2": Account(1, None, None)}


def test_the_database_beside_the_replies() -> None:
    told = {"1": Account(2, 12, 4), "2": Account(1, None, None)}
    row = {"requests": 2, "input_tokens": 12, "output_tokens": 4}
    database = recorded([{"key_id": "1", **row}, {"key_id": "2", **row, "requests": 1}])
    assert differences(told, database) == []
    assert differences(told, database | {"1": Account(2, 12, 5)}) == [
        "1: the replies speak of 12 + 4 tokens, recorded are 12 + 5"
    ]
    assert differences(told, {"1": database["1"]}) == ["2: 1 requests were answered, 0 are recorded"]
    assert differences({}, {"3": Account(1, 1, 1)}) == [
        "3: 0 requests were answered, 1 are recorded",
        "3: the replies speak of 0 + 0 tokens, recorded are 1 + 1",
    ]


@pytest.mark.parametrize(
    ("database", "all_there"),
    [
        ({"1": Account(2, 1, 1)}, True),
        ({"1": Account(3, 1, 1), "2": Account(1, 1, 1)}, True),
        ({"1": Account(1, 1, 1)}, False),
        ({}, False),
    ],
)
def test_reached(database: dict[str, Account], all_there: bool) -> None:
    assert reached({"1": Account(2, None, None)}, database) is all_there


def refusal(start: float) -> Asked:
    return asked(start, None, status=429, refused=True)


@pytest.mark.parametrize(
    ("requests", "faults"),
    [
        pytest.param([asked(0), asked(1), refusal(2), refusal(58), asked(62), asked(63)], [], id="as it must be"),
        pytest.param([asked(0), asked(1), asked(30)], ["3 requests were let in within 31.00 s"], id="one too many"),
        pytest.param([asked(0), refusal(1), asked(2)], ["refused after 1 requests in 61 s"], id="too early"),
        pytest.param([asked(0), asked(1), refusal(70)], ["refused after 0 requests in 61 s"], id="for too long"),
    ],
)
def test_limits(requests: list[Asked], faults: list[str]) -> None:
    assert limit_faults(requests, 2) == faults
