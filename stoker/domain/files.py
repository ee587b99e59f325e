"""Models' files on workers' disks: who may have them from whom, and which of them go when room is needed."""

from collections.abc import Collection, Iterable, Sequence

from stoker.domain.base import Bytes, Value, WorkerName
from stoker.domain.reports import StoredFile


class Peer(Value):
    """Another worker that holds a model whole, as a worker that wants it reaches it."""

    worker: WorkerName
    address: str
    mesh_port: int


class StoredModel(Value):
    """All that lies on one worker's disk of one model.

    `used_at` is in Unix seconds, None where no use is known. `own`: Stoker fetched all of it, and may take it away by
    itself.
    """

    model: str  # its key (`ModelFiles.key`)
    files: tuple[StoredFile, ...]
    used_at: float | None = None
    in_use: bool = False
    own: bool = True

    @property
    def size(self) -> int:
        """Bytes of all its files when they are whole."""
        return sum(file.size for file in self.files)

    @property
    def done(self) -> int:
        """Bytes on disk: what taking it away would give."""
        return sum(file.done for file in self.files)


def stored_models(files: Iterable[StoredFile]) -> tuple[StoredModel, ...]:
    """One worker's files put together by model, by key."""
    by_model: dict[str, list[StoredFile]] = {}
    for file in files:
        by_model.setdefault(file.model, []).append(file)
    return tuple(_model(key, by_model[key]) for key in sorted(by_model))


def _model(key: str, files: Sequence[StoredFile]) -> StoredModel:
    uses = [file.used_at for file in files if file.used_at is not None]
    return StoredModel(
        model=key,
        files=tuple(sorted(files, key=lambda file: file.path)),
        used_at=max(uses, default=None),
        in_use=any(file.in_use for file in files),
        own=all(file.own for file in files),
    )


def choose_for_room(
    models: Iterable[StoredModel], *, lacking: Bytes, keep: Collection[str] = (), used_before: float | None = None
) -> tuple[StoredModel, ...] | None:
    """The models whose going gives `lacking` bytes: unused longest first, and none that the others make needless.

    Only what Stoker fetched itself, is not in use, whose key is not in `keep`, and (where `used_before` is given, in
    Unix seconds) that was last used before then. None when all of that together is not enough: then nothing needs to
    go, since it would not help.
    """
    candidates = [
        model for model in models if model.own and not model.in_use and model.done and model.model not in keep
    ]
    if used_before is not None:
        candidates = [model for model in candidates if (model.used_at or 0.0) < used_before]
    chosen: list[StoredModel] = []
    freed = 0
    for model in sorted(candidates, key=_by_last_use):
        if freed >= lacking:
            break
        chosen.append(model)
        freed += model.done
    if freed < lacking:
        return None
    for model in sorted(chosen, key=_by_last_use, reverse=True):
        if freed - model.done >= lacking:
            chosen.remove(model)
            freed -= model.done
    return tuple(chosen)


def choose_by_age(models: Iterable[StoredModel], *, used_before: float) -> tuple[StoredModel, ...]:
    """The models that Stoker fetched, that nobody uses now, and that were last used before that moment (Unix seconds).

    Unused longest first. One of which no use is known counts as never used.
    """
    old = (model for model in models if model.own and not model.in_use and (model.used_at or 0.0) < used_before)
    return tuple(sorted(old, key=_by_last_use))


def _by_last_use(model: StoredModel) -> tuple[float, str]:
    return model.used_at or 0.0, model.model
