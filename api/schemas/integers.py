"""Integers as bodies have them."""

from typing import Annotated, Any

from pydantic import BeforeValidator


def _is_a_number(value: Any) -> Any:
    if isinstance(value, bool | str):
        kind = "a boolean" if isinstance(value, bool) else "a text"
        raise ValueError(f"must be an integer, not {kind}")
    return value


NO_OTHER_KIND = BeforeValidator(_is_a_number)
"""Makes an integer's type take numbers only."""

Integer = Annotated[int, NO_OTHER_KIND]
"""A JSON number without a fraction (`4`, `4.0`). Pydantic would take `true` for 1, and `"4"` for 4."""
