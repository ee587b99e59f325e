"""The models that lie whole in the hub's cache of this host, for the worker's report."""

import time
from collections.abc import Callable
from pathlib import Path

from worker_agent.disk_look import REFRESH_SECONDS as REFRESH_SECONDS
from worker_agent.disk_look import DiskLook
from worker_agent.hub_cache import find_whole_models

MOST_KEYS = 200
"""As many are reported, the latest of them: a report stays small, and a preference needs no more."""


class HeldModels:
    """Looked up beside the report, never in its way. Fit for any thread."""

    def __init__(
        self,
        cache_dir: Path,
        *,
        find: Callable[[Path, int], tuple[str, ...]] = find_whole_models,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock` counts seconds."""
        self._look: DiskLook[tuple[str, ...]] = DiskLook(
            lambda: find(cache_dir, MOST_KEYS), (), name="held models", folder=cache_dir, clock=clock
        )

    def keys(self) -> tuple[str, ...]:
        """`ModelFiles.key` of each, sorted: by the latest look that has ended. Begins another when one is due."""
        return self._look.latest()

    def look_again(self) -> None:
        """Something was fetched: the next question leads to a look."""
        self._look.look_again()
