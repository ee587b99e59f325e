"""What a check found, and what to do about it."""

from dataclasses import dataclass
from enum import StrEnum
from functools import partial


class Verdict(StrEnum):
    """OK; WARNING: it works, and may not for long, or not as well as it could; WRONG: something does not work."""

    OK = "ok"
    WARNING = "warning"
    WRONG = "wrong"


@dataclass(frozen=True)
class Finding:
    """One check's result. `advice`: what to do; empty where nothing has to be done."""

    check: str
    verdict: Verdict
    found: str
    advice: str = ""


ok = partial(Finding, verdict=Verdict.OK)
warning = partial(Finding, verdict=Verdict.WARNING)
wrong = partial(Finding, verdict=Verdict.WRONG)
