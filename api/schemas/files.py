"""Models' files on workers' disks as REST reads them."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Self

from pydantic import BaseModel, Field

from stoker.domain.base import InstanceId, WorkerName
from stoker.domain.files import StoredModel


class StoredFileRead(BaseModel):
    """One file of a model."""

    path: str = Field(description="Inside the repository.")
    size_bytes: int
    stored_bytes: int = Field(description="Of it on the disk.")


class StoredModelRead(BaseModel):
    """One model from a hub on one worker's disk."""

    id: str = Field(description="`WORKER/MODEL`")
    worker: str
    model: str = Field(description="`hf:ORG/REPO@COMMIT/FIRST-FILE`")
    size_bytes: int
    stored_bytes: int = Field(description="Of it on the disk: less than its size while it is not whole.")
    used_at: datetime | None = Field(description="The last use that is known, to within some minutes.")
    in_use: bool
    own: bool = Field(description="Whether Stoker fetched it; else it was found in the user's own cache of the hub.")
    instances: list[str] = Field(description="Those that have their place there and run this model, by id.")
    files: list[StoredFileRead]

    @classmethod
    def of(cls, worker: WorkerName, model: StoredModel, instances: Sequence[InstanceId]) -> Self:
        """The model as its worker told of it, and who uses it by the rows."""
        return cls(
            id=f"{worker}/{model.model}",
            worker=worker,
            model=model.model,
            size_bytes=model.size,
            stored_bytes=model.done,
            used_at=datetime.fromtimestamp(model.used_at, UTC) if model.used_at is not None else None,
            in_use=model.in_use or bool(instances),
            own=model.own,
            instances=list(instances),
            files=[
                StoredFileRead(path=file.path, size_bytes=file.size, stored_bytes=file.done) for file in model.files
            ],
        )


class EvictedRead(BaseModel):
    """A model that is not on the worker's disk any more."""

    worker: str
    model: str
    freed_bytes: int = Field(description="0 where another model shares all of its content.")
