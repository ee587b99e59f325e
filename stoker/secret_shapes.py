"""How keys and tokens are written, and text from which they are taken out. Pure, and light enough for every command."""

import re

KEY_PREFIX = "sk-stoker-"
JOIN_TOKEN_PREFIX = "st-join-"  # noqa: S105
WORKER_CREDENTIAL_PREFIX = "st-worker-"

_KEY_ID_DIGITS = 12
_SHORTEST_TOKEN = 40  # characters behind its prefix: a worker may be called st-worker-1

# To the end of the segment: one that was pasted with a blank or a line's end within is one all the same.
_KEY = re.compile(rf"({KEY_PREFIX}(?:[0-9a-f]{{{_KEY_ID_DIGITS}}}-)?)[^/]+", re.IGNORECASE)
_TOKEN = re.compile(rf"({JOIN_TOKEN_PREFIX}|{WORKER_CREDENTIAL_PREFIX})[^/]{{{_SHORTEST_TOKEN},}}", re.IGNORECASE)


def redacted(path: str) -> str:
    """The path with `[redacted]` for each segment's part that is, or looks like, an API key or a token.

    Somebody types the key where its id belongs; it is still valid, and the path is kept and shown to others. The id
    within a key stays: it is what there is to be revoked.
    """
    return _TOKEN.sub(r"\1[redacted]", _KEY.sub(r"\1[redacted]", path))


def key_id_within(text: str) -> str | None:
    """The id of a whole API key anywhere in the text, or None."""
    found = re.search(rf"{KEY_PREFIX}([0-9a-f]{{{_KEY_ID_DIGITS}}})-.", text)
    return found[1] if found else None
