"""One page of a listing."""

from collections.abc import Sequence
from typing import Generic, TypeVar

from pydantic import BaseModel, Field

T = TypeVar("T")


class Page(BaseModel, Generic[T]):
    """Ask for the next with `after` set to `last`, while `has_more`."""

    data: list[T]
    has_more: bool
    last: str | None = Field(default=None, description="The last item's id: the next page's `after`.")


def page_of(items: Sequence[T], ids: Sequence[str], limit: int) -> Page[T]:
    """The page made of up to `limit` of `items`; the caller asked for one more, to know whether there is more."""
    shown = list(items[:limit])
    return Page(data=shown, has_more=len(items) > limit, last=ids[len(shown) - 1] if shown else None)
