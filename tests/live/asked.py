"""Requests as a load tells of them, made up for tests."""

from tests.live.load import Asked, Key, Turn
from tests.live.questions import questions

ASK = questions("m", tokens=4, prompt="a")


def asked(name: str, **fields: object) -> Asked:
    """One that got a right answer in a second."""
    told = {"start": 1.0, "end": 2.0, "first_byte": 1.5, "status": 200, "tokens": None} | fields
    return Asked(turn=Turn(ASK[name], Key("app", "1", "sk-1")), **told)  # type: ignore[arg-type]


def lost(name: str, **fields: object) -> Asked:
    """One whose answer broke off."""
    return asked(name, lost=True, wrong="the connection ended", **fields)
