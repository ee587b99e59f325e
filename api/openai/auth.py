"""Who is asking: the key of a request, and what stands behind it."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from stoker.domain.keys import KeyLimits, Role


@dataclass(frozen=True, slots=True)
class Principal:
    """The owner of a key, and what the key may do. Made once a key, not once a request."""

    key_id: str = ""  # empty where keys are off
    name: str = ""
    role: Role = Role.USER
    models: frozenset[str] = frozenset()  # the only names that it may ask; empty: all
    limits: KeyLimits | None = None  # None: none at all
    expires_at: float = math.inf  # Unix seconds; inf: never

    def may_ask(self, model: str) -> bool:
        """Whether it may use what clients call `model`."""
        return not self.models or model in self.models


Authenticate = Callable[[str | None], Principal | None]
"""From a key (None: the request has none) to its owner; None when it opens nothing. In memory, at once."""


def key_of(headers: Mapping[bytes, bytes]) -> str | None:
    """The key in `authorization: Bearer KEY`, else in `x-api-key: KEY`; None when there is neither."""
    scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer" and key.strip():
        return key.strip().decode("latin-1")
    key = headers.get(b"x-api-key", b"").strip()
    return key.decode("latin-1") if key else None
