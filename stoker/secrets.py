"""Keys and tokens: how they are made, kept as HMACs, compared, and derived. Nothing here is ever logged."""

import hmac
import os
import secrets
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from stoker.domain.base import InstanceId

KEY_PREFIX = "sk-stoker-"
JOIN_TOKEN_PREFIX = "st-join-"  # noqa: S105
WORKER_CREDENTIAL_PREFIX = "st-worker-"


class ServerSecret:
    """The server's own secret: everything that is stored of a key is an HMAC under it."""

    def __init__(self, value: str) -> None:
        if len(value) < 32:
            raise ValueError("the server's secret must be at least 32 characters: make one with `openssl rand -hex 32`")
        self._key = value.encode()

    def digest(self, secret: str) -> str:
        """HMAC-SHA256 of `secret` in hexadecimal: what is stored in its place."""
        return hmac.new(self._key, secret.encode(), sha256).hexdigest()

    def matches(self, secret: str, digest: str) -> bool:
        """Whether `digest` is that of `secret`, in constant time."""
        return hmac.compare_digest(self.digest(secret), digest)


def new_key() -> tuple[str, str]:
    """A new API key's id and the key itself, `sk-stoker-<id>-<256 random bits>`."""
    key_id = secrets.token_hex(6)
    return key_id, f"{KEY_PREFIX}{key_id}-{secrets.token_urlsafe(32)}"


def key_id_of(key: str) -> str | None:
    """The id inside an API key, or None when it is not written like one."""
    key_id, dash, random = key.removeprefix(KEY_PREFIX).partition("-")
    return key_id if key.startswith(KEY_PREFIX) and dash and random else None


def new_join_token() -> str:
    """A token with which workers join the cluster."""
    return JOIN_TOKEN_PREFIX + secrets.token_urlsafe(32)


def new_worker_credential() -> str:
    """What one worker shows with each report after it joined."""
    return WORKER_CREDENTIAL_PREFIX + secrets.token_urlsafe(32)


def new_secret() -> str:
    """256 random bits."""
    return secrets.token_urlsafe(32)


def engine_key(engine_secret: str, instance_id: InstanceId, incarnation: int) -> str:
    """The key of one incarnation's engine. The worker and the server derive the same one: it is never sent."""
    return hmac.new(engine_secret.encode(), f"engine:{instance_id}:{incarnation}".encode(), sha256).hexdigest()


def agent_key(engine_secret: str) -> str:
    """The key with which the server asks a worker's agent for logs."""
    return hmac.new(engine_secret.encode(), b"agent", sha256).hexdigest()


def read_or_make(path: Path, make: str) -> str:
    """The secret in the file `path`, which is written with `make` (mode 0600) when it is not there yet.

    Of two that make it at once, both get the same one. Raises ValueError when the file is there and empty.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Written whole under another name: nobody ever reads half a secret.
        scratch = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        try:
            with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(make + "\n")
            with suppress(FileExistsError):
                os.link(scratch, path)
        finally:
            scratch.unlink(missing_ok=True)
    found = path.read_text().strip()
    if not found:
        raise ValueError(f"the file {path} is empty: remove it, and a new secret is made")
    return found
