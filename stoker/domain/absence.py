"""Which workers are lost, and when so many are silent that the fault is likelier with whoever takes their reports.

The rules:

1. Silence is counted in time in which reports were taken from others. While nobody's are, the API, the database or the
   looker itself is away, not the hosts: nobody grows more silent then, and after more than `QUIET_SECONDS` of it
   everybody's silence is counted anew from the first report that is taken.
2. A worker that holds something is lost when it has been silent for longer than the grace.
3. But nothing is moved, and an alarm is raised, when more than `MOST_SILENT` of the workers are silent at once, and at
   least `FEWEST_SILENT`. So a single dead host is always replaced: in a fleet of one there is nobody whose reports
   could tell that it is dead, and nowhere to go. Two at once are replaced in fleets of seven and more.
4. At once: whoever holds something still, and whoever fell silent within the grace of one that is lost. A host that
   died earlier, and whose instances have moved, does not count: it is neither there nor news.
5. Who has missed two reports counts as silent for rule 3, long before the grace is over: those who fall silent together
   are seen together, though each reported last at another moment.
6. When an alarm is over, whoever was held back has the whole grace again: they do not come back all at once.

All of it is derived anew from each look; nothing is latched.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import NamedTuple

from pydantic import Field

from stoker.domain.base import Value, WorkerName
from stoker.domain.reports import REPORT_EVERY_SECONDS

MOST_SILENT = 0.3
"""The share of the workers that may be silent at once before nothing is moved."""

FEWEST_SILENT = 2
"""Fewer than so many are never too many."""

QUIET_SECONDS = 2 * REPORT_EVERY_SECONDS
"""Of silence: two reports are missed. When it is everybody's, it is a gap in the looking or the taking of reports."""

LEAST_GRACE_SECONDS = QUIET_SECONDS + REPORT_EVERY_SECONDS
"""With less, the first of many that fall silent together would be moved before the others are seen to be silent."""

_NAMED = 5  # workers that an alarm names


class LastReport(Value):
    """What a worker's row says: when its last report was taken, and whether anything (that is not ending) claims it."""

    worker: WorkerName
    taken_at: datetime
    holds: bool = False


class Heard(NamedTuple):
    """One worker's last report, and on the listening clock when it was first seen."""

    taken_at: datetime
    at: float


class Listening(Value):
    """What one looker has heard since it began: the listening clock, which runs only while reports are taken."""

    seconds: float = 0.0  # the listening clock
    unheard_seconds: float = 0.0  # of looks since anybody's report was last seen
    looked_at: float | None = None  # the looker's own clock; None: it has not looked yet
    heard: Mapping[WorkerName, Heard] = Field(default_factory=dict)

    def looked(self, reports: Iterable[LastReport], now: float) -> "Listening":
        """What is heard with another look, at `now`: seconds of a clock of the looker's own that only grows."""
        reports = tuple(reports)
        elapsed = now - self.looked_at if self.looked_at is not None else math.inf
        unheard = self.unheard_seconds + elapsed
        # Other than before is news, and not only later: the moments are of another machine's clock.
        news = {
            one.worker for one in reports if (known := self.heard.get(one.worker)) and known.taken_at != one.taken_at
        }
        if elapsed > QUIET_SECONDS or (news and unheard > QUIET_SECONDS):
            return Listening(looked_at=now, heard={one.worker: Heard(one.taken_at, 0.0) for one in reports})
        seconds = self.seconds + unheard if news else self.seconds
        heard = {
            one.worker: Heard(one.taken_at, seconds)
            if one.worker in news or one.worker not in self.heard
            else self.heard[one.worker]
            for one in reports
        }
        return Listening(seconds=seconds, unheard_seconds=0.0 if news else unheard, looked_at=now, heard=heard)

    def forgiving(self, workers: Iterable[WorkerName]) -> "Listening":
        """As if these had been heard just now."""
        now = {name: self.heard[name]._replace(at=self.seconds) for name in workers if name in self.heard}
        return self.model_copy(update={"heard": {**self.heard, **now}})

    def silences(self) -> dict[WorkerName, float]:
        """Seconds of the listening clock for which each worker has been silent."""
        return {name: self.seconds - heard.at for name, heard in self.heard.items()}


class Absence(Value):
    """What follows from one look: whose instances must go on elsewhere, or why nothing is moved."""

    lost: tuple[WorkerName, ...] = ()
    held_back: tuple[WorkerName, ...] = ()  # would be lost, were there no alarm
    alarm: str = ""  # for people; empty: there is none


def follow(
    before: Absence, listening: Listening, holding: Collection[WorkerName], grace: float
) -> tuple[Listening, Absence]:
    """What follows from a look after one that found `before`; the listening to go on with. See `judge`, and rule 6."""
    absence = judge(listening, holding, grace)
    if before.held_back and not absence.held_back:
        listening = listening.forgiving(before.held_back)
        absence = judge(listening, holding, grace)
    return listening, absence


def judge(listening: Listening, holding: Collection[WorkerName], grace: float) -> Absence:
    """Who is lost by what was heard. `holding`: workers that something claims; `grace`: seconds of silence allowed."""
    there = {name for name in holding if name in listening.heard}
    if there and listening.unheard_seconds > grace:
        return Absence(
            held_back=tuple(sorted(there)),
            alarm=f"no worker's report has been taken for {listening.unheard_seconds:.0f} s: nothing is moved. "
            "Look at the API, its database and the network before the hosts",
        )
    silences = listening.silences()
    due = tuple(sorted(name for name in there if silences[name] > grace))
    silent = _silent_with(due, silences, there, grace)
    all_there = len(silent) + sum(silence <= QUIET_SECONDS for silence in silences.values())
    if due and is_too_many(len(silent), all_there):
        return Absence(
            held_back=due,
            alarm=f"{len(silent)} of {all_there} workers are silent at once ({_named(silent)}), more than "
            f"{MOST_SILENT:.0%}: nothing is moved. Look at the network, the API and its database before the hosts",
        )
    return Absence(lost=due)


def is_too_many(silent: int, there: int) -> bool:
    """Whether so many of all workers that were there cannot be silent for reasons of their own; rule 3."""
    return silent >= FEWEST_SILENT and silent > MOST_SILENT * there


def _silent_with(
    due: Collection[WorkerName], silences: Mapping[WorkerName, float], holding: Collection[WorkerName], grace: float
) -> list[WorkerName]:
    """Those that count as silent at once with `due`; rules 4 and 5."""
    quiet = sorted(name for name, silence in silences.items() if silence > QUIET_SECONDS)
    ends = [silences[name] for name in due]

    def together(name: WorkerName) -> bool:
        return name in holding or any(abs(silences[name] - end) <= grace for end in ends)

    return [name for name in quiet if together(name)]


def _named(workers: Collection[WorkerName]) -> str:
    first = list(workers)[:_NAMED]
    return ", ".join(first) + (f" and {len(workers) - len(first)} more" if len(workers) > len(first) else "")
