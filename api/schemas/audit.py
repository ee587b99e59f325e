"""The audit log as REST reads it."""

from datetime import datetime
from typing import Any, Self

from pydantic import BaseModel, Field

from stoker.domain.audit import AuditEntry


class FieldChangeRead(BaseModel):
    """One field before and after; null where there was none."""

    field: str = Field(description="`options.slots` is a field of an object within.")
    before: Any = None
    after: Any = None


class AuditEntryRead(BaseModel):
    """One change that was asked for."""

    at: datetime = Field(description="When it came in.")
    key_id: str = Field(description="Of the API key that asked; empty: another credential, or none that is known.")
    key_name: str = Field(description="The key's name then; for a worker that joined, with what.")
    action: str = Field(description="The operation, by its id in this document.")
    method: str
    path: str
    object: str = Field(description="Kind and name, like deployment/smol; empty: it got none.")
    changes: list[FieldChangeRead] = Field(description="What was asked for, of deployments, keys and routes.")
    status: int = Field(description="HTTP's; 0: it was never answered, and may have been made or not.")
    request_id: str = Field(description="As in `x-request-id` of the answer, and in the logs.")

    @classmethod
    def of_entry(cls, entry: AuditEntry) -> Self:
        """As read from its row."""
        return cls.model_validate(entry.model_dump())
