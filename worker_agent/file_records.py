"""What this agent knows of the models in the cache and the disk does not tell: who fetched them, and who used them."""

import threading
import time
from collections.abc import Callable, Collection
from hashlib import sha256
from pathlib import Path
from secrets import token_hex

import structlog
from pydantic import Field, ValidationError

from stoker.domain.base import InstanceId, Value
from stoker.domain.models import ModelFile, ModelFiles
from stoker.private_files import write_private

log = structlog.get_logger()

MOST_USERS = 64
"""As many of the latest instances that wanted a model are remembered."""


class ModelRecord(Value):
    """One model from a hub that was wanted here."""

    files: ModelFiles
    fetched: tuple[str, ...] = ()  # those files that Stoker fetched
    used_at: float = 0.0  # Unix seconds
    users: tuple[InstanceId, ...] = ()  # the latest last

    def owns(self, file: ModelFile) -> bool:
        """Whether Stoker fetched that file."""
        return file.path in self.fetched


class _Content(Value):
    """All of it, as it is kept on disk."""

    models: dict[str, ModelRecord] = Field(default_factory=dict)  # by `ModelFiles.key`
    verified: dict[str, tuple[int, int]] = Field(default_factory=dict)  # by path: size and mtime_ns when it was right


class FileRecords:
    """Kept in one small file, written whole and atomically; without `path`, in memory. Fit for any thread.

    A file that cannot be read or written is logged: what is forgotten is checked and counted anew.
    """

    def __init__(self, path: Path | None = None, *, clock: Callable[[], float] = time.time) -> None:
        """`clock` gives Unix seconds."""
        self._path, self._clock = path, clock
        self._lock = threading.Lock()
        self._content = _read(path)
        self.name = sha256(str(path.absolute()).encode()).hexdigest()[:16] if path is not None else token_hex(8)
        """The agent's, as others that share its cache know it: the same in its next life."""

    def models(self) -> dict[str, ModelRecord]:
        """Every record, by the model's key."""
        with self._lock:
            return dict(self._content.models)

    def wanted(self, files: ModelFiles, *, user: InstanceId, missing: Collection[str]) -> None:
        """An instance (empty: nobody) wants the model now; Stoker is about to fetch the files named in `missing`."""
        with self._lock:
            old = self._content.models.get(files.key, ModelRecord(files=files))
            users = [name for name in old.users if name != user] + ([user] if user else [])
            record = ModelRecord(
                files=files,
                fetched=tuple(sorted({*old.fetched, *missing})),
                used_at=self._clock(),
                users=tuple(users[-MOST_USERS:]),
            )
            self._keep(models={**self._content.models, files.key: record})

    def used(self, key: str) -> None:
        """The model is in use now."""
        with self._lock:
            if (old := self._content.models.get(key)) is not None:
                record = old.model_copy(update={"used_at": self._clock()})
                self._keep(models={**self._content.models, key: record})

    def forget(self, key: str) -> None:
        """The model is not here any more."""
        with self._lock:
            self._keep(models={known: record for known, record in self._content.models.items() if known != key})

    def verified(self, path: Path) -> None:
        """The file's content was found right, as it is now."""
        with self._lock:
            if (mark := _mark(path)) is not None and self._content.verified.get(str(path)) != mark:
                there = {known: old for known, old in self._content.verified.items() if Path(known).exists()}
                self._keep(verified={**there, str(path): mark})

    def is_verified(self, path: Path) -> bool:
        """Whether the file's content was found right, and has not changed since."""
        known = self._content.verified.get(str(path))
        return known is not None and known == _mark(path)

    def _keep(
        self,
        *,
        models: dict[str, ModelRecord] | None = None,
        verified: dict[str, tuple[int, int]] | None = None,
    ) -> None:
        self._content = _Content(
            models=self._content.models if models is None else models,
            verified=self._content.verified if verified is None else verified,
        )
        if self._path is None:
            return
        try:
            write_private(self._path, self._content.model_dump_json())
        except OSError as error:
            log.error("file_records_not_written", path=str(self._path), error=str(error))


def _read(path: Path | None) -> _Content:
    try:
        return _Content.model_validate_json(path.read_bytes()) if path is not None else _Content()
    except FileNotFoundError:
        return _Content()
    except (OSError, ValidationError) as error:
        log.error("file_records_not_read", path=str(path), error=str(error))
        return _Content()


def _mark(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns
