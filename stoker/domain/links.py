"""The way from one worker to another, as it was last checked."""

from datetime import datetime

from stoker.domain.base import Value, WorkerName


class WorkerLink(Value):
    """From where a main server runs to a worker that lends it devices. Both ends say the same of it at one moment."""

    worker: WorkerName  # where the main server runs
    peer: WorkerName  # who lends it devices
    round_trip_seconds: float = 0.0
    bytes_per_second: int = 0
    problem: str = ""  # why it is no way; empty: it is one
    checked_at: datetime
