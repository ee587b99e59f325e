"""The cluster's health as REST reads it."""

from typing import Self

from pydantic import BaseModel, Field

from stoker.domain.absence import Absence


class Alarm(BaseModel):
    """Something that needs a person."""

    code: str = Field(description="Stable: `workers_silent_at_once`.")
    message: str
    workers: list[str] = Field(description="Those that it is about.")


class Health(BaseModel):
    """`ok`, or `alarm` and why. `workers_lost` are no alarm: what ran there moves by itself."""

    status: str
    alarms: list[Alarm]
    workers_lost: list[str]

    @classmethod
    def of_absence(cls, absence: Absence) -> Self:
        """The health of a cluster of which no more is known than who is silent."""
        silent = Alarm(code="workers_silent_at_once", message=absence.alarm, workers=list(absence.held_back))
        return cls(
            status="alarm" if absence.alarm else "ok",
            alarms=[silent] if absence.alarm else [],
            workers_lost=list(absence.lost),
        )
