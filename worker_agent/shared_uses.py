"""Which models the agents that share a cache on this host use: none takes away what another one has in use.

.locks/stoker/NAME.uses    whose agent, and the keys of its models; it counts as long as that agent lives
"""

import os
from collections.abc import Collection
from pathlib import Path

import structlog
from pydantic import ValidationError

from stoker.domain.base import Value
from worker_agent.pids import birth_of, is_alive

log = structlog.get_logger()


class _Uses(Value):
    """`pid` and `birth` tell the agent; `models` by `ModelFiles.key`."""

    pid: int
    birth: str
    models: tuple[str, ...]


class SharedUses:
    """One agent's, below `cache_dir`. `name` is its own, the same in its next life. Fit for any thread."""

    def __init__(self, cache_dir: Path, name: str) -> None:
        self._folder = cache_dir / ".locks" / "stoker"
        self._path = self._folder / f"{name}.uses"

    def tell(self, models: Collection[str]) -> None:
        """These are in use by this agent, and no others. Where it cannot be written, that is logged."""
        pid = os.getpid()
        uses = _Uses(pid=pid, birth=birth_of(pid), models=tuple(sorted(models)))
        if _read(self._path) == uses or not (uses.models or self._path.exists()):
            return
        draft = self._path.with_name(f".{self._path.name}.draft")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            draft.write_text(uses.model_dump_json(), encoding="utf-8")
            draft.replace(self._path)
        except OSError as error:
            log.error("uses_not_told", path=str(self._path), error=str(error))

    def of_others(self) -> frozenset[str]:
        """Models that other living agents use."""
        found: set[str] = set()
        for path in self._folder.glob("*.uses"):
            uses = _read(path) if path != self._path else None
            if uses is not None and is_alive(uses.pid, uses.birth):
                found.update(uses.models)
        return frozenset(found)


def _read(path: Path) -> _Uses | None:
    try:
        return _Uses.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
