"""Who is asking: the key of a request, and what stands behind it."""

from collections.abc import Callable, Mapping

from stoker.domain.base import Value


class Principal(Value):
    """The owner of a key."""

    key_id: str = ""  # empty where keys are off


Authenticate = Callable[[str | None], Principal | None]
"""From a key (None: the request has none) to its owner; None when it opens nothing. In memory, at once."""


def key_of(headers: Mapping[bytes, bytes]) -> str | None:
    """The key in `authorization: Bearer KEY`, else in `x-api-key: KEY`; None when there is neither."""
    scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer" and key.strip():
        return key.strip().decode("latin-1")
    key = headers.get(b"x-api-key", b"").strip()
    return key.decode("latin-1") if key else None
