"""The model files in the cache of this host, as they are told to the API: what is there, whose it is, who uses it."""

import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from stoker.domain.base import InstanceId
from stoker.domain.files import StoredModel, stored_models
from stoker.domain.reports import StoredFile
from worker_agent.disk_look import DiskLook
from worker_agent.file_records import FileRecords, ModelRecord
from worker_agent.held_models import MOST_KEYS
from worker_agent.hub_cache import CachedRepo, find_whole_models, repo_of_key
from worker_agent.shared_uses import SharedUses

USED_EVERY_SECONDS = 600.0
"""A model in use is written down as used again after this time: the last use is known to within it."""

WANTED_SECONDS = 120.0
"""So long a model that was wanted counts as used for other agents on this host: its engine may be about to open it."""

TOLD_AGAIN_SECONDS = 300.0
"""After this time all is told once more, though nothing changed: a server may have lost what it knew."""


class StoredFiles:
    """Looks at the disk beside the report, never in its way. Fit for any thread but for `changed` and `taken`."""

    def __init__(
        self,
        cache_dir: Path,
        records: FileRecords,
        *,
        live: Callable[[], Collection[InstanceId]],
        coming: Callable[[], Collection[str]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`live`: instances that have a process here. `coming`: keys of the models that are being fetched.

        `clock` gives Unix seconds.
        """
        self._cache_dir, self._records, self._live, self._coming = cache_dir, records, live, coming
        self.now = clock
        self._shared = SharedUses(cache_dir, records.name)
        self._look: DiskLook[tuple[StoredFile, ...]] = DiskLook(self.files, (), name="stored files", folder=cache_dir)
        self._taken: tuple[StoredFile, ...] | None = None
        self._taken_at = 0.0

    def look_again(self) -> None:
        """Something has changed on the disk: the next question leads to a look."""
        self._look.look_again()

    def changed(self) -> tuple[StoredFile, ...] | None:
        """What the API does not know yet: all files, or None where it was told all of it. Never waits for the disk."""
        found = self._with_use(self._look.latest())
        if found == self._taken and self.now() - self._taken_at < TOLD_AGAIN_SECONDS:
            return None
        return found

    def taken(self, told: tuple[StoredFile, ...] | None) -> None:
        """The API has taken this; None changes nothing."""
        if told is not None:
            self._taken, self._taken_at = told, self.now()

    def tell_again(self) -> None:
        """The API may know nothing: it is told all with the next report."""
        self._taken = None

    def share_use(self) -> None:
        """Tells other agents on this host at once what is in use here."""
        self._with_use(())

    def models(self) -> tuple[StoredModel, ...]:
        """What is there now, by model. It looks at the disk. Raises OSError."""
        return stored_models(self._with_use(self.files()))

    def files(self) -> tuple[StoredFile, ...]:
        """Every file of the models that Stoker wanted, in part or whole, and of others that lie there whole.

        It looks at the disk. Raises OSError.
        """
        records = self._records.models()
        found: list[StoredFile] = []
        for key, record in records.items():
            found += self._recorded(key, record)
        for key in find_whole_models(self._cache_dir, MOST_KEYS):
            if key not in records:
                found += self._whole(key)
        return tuple(found)

    def remove(self, key: str, files: Sequence[StoredFile]) -> int:
        """Takes the model's files off the disk, and forgets it; the bytes that are free then. Raises OSError."""
        repo, _ = repo_of_key(self._cache_dir, key)
        record = self._records.models().get(key)
        freed = sum(repo.drop(file.path) for file in files)
        freed += sum(repo.drop_part(file) for file in record.files.files) if record is not None else 0
        self._records.forget(key)
        self.look_again()
        return freed

    def _recorded(self, key: str, record: ModelRecord) -> list[StoredFile]:
        cached = CachedRepo(self._cache_dir, record.files.source.repo, record.files.revision)
        found = [
            StoredFile(
                model=key,
                path=file.path,
                size=file.size,
                done=cached.bytes_on_disk(file),
                used_at=record.used_at or None,
                own=record.owns(file),
            )
            for file in record.files.files
        ]
        return found if any(file.done for file in found) or key in self._coming() else []

    def _whole(self, key: str) -> list[StoredFile]:
        repo, names = repo_of_key(self._cache_dir, key)
        sizes = [(name, repo.pointer(name).stat().st_size) for name in names]
        return [StoredFile(model=key, path=name, size=size, done=size, own=False) for name, size in sizes]

    def _with_use(self, files: Sequence[StoredFile]) -> tuple[StoredFile, ...]:
        """With what changes faster than the disk is looked at: who uses what, and since when."""
        records, live, coming = self._records.models(), set(self._live()), set(self._coming())
        in_use = {key for key, record in records.items() if key in coming or live.intersection(record.users)}
        since = self.now() - WANTED_SECONDS
        self._shared.tell(in_use | {key for key, record in records.items() if record.used_at > since})
        for key in in_use:
            if self.now() - records[key].used_at >= USED_EVERY_SECONDS:
                self._records.used(key)
        records = self._records.models()
        in_use |= self._shared.of_others()
        return tuple(
            file.model_copy(
                update={
                    "in_use": file.model in in_use,
                    "used_at": (records[file.model].used_at or None) if file.model in records else file.used_at,
                }
            )
            for file in files
        )
