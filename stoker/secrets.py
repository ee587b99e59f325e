"""Keys and tokens: how they are made, kept as HMACs, compared, and derived. Nothing here is ever logged."""

import base64
import binascii
import hmac
import re
import secrets
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from stoker.domain.base import InstanceId
from stoker.private_files import make_private
from stoker.secret_shapes import JOIN_TOKEN_PREFIX, KEY_PREFIX, WORKER_CREDENTIAL_PREFIX

_ONE_TIME_TOKEN = re.compile(rf"{JOIN_TOKEN_PREFIX}([0-9a-f]{{64}})\.([0-9a-f]{{12}})\.[A-Za-z0-9_-]{{43}}")
_NONCE_BYTES = 12  # of AES-GCM
_BLOCK_BYTES = 64  # of SHA-256


class OtherSecretError(ValueError):
    """What was sealed under another secret than this server's, or changed since, cannot be read."""


class ServerSecret:
    """The server's own secret: all that is stored of a key is an HMAC under it, and what is sealed needs it again."""

    def __init__(self, value: str) -> None:
        if len(value) < 32:
            raise ValueError("the server's secret must be at least 32 characters: make one with `openssl rand -hex 32`")
        self._key = value.encode()
        block = (self._key if len(self._key) <= _BLOCK_BYTES else sha256(self._key).digest()).ljust(_BLOCK_BYTES, b"\0")
        self._inner, self._outer = (sha256(bytes(byte ^ pad for byte in block)) for pad in (0x36, 0x5C))

    def digest(self, secret: str) -> str:
        """HMAC-SHA256 of `secret` in hexadecimal: what is stored in its place."""
        # RFC 2104 with the key's two blocks hashed beforehand: every request to /v1 comes by here, and the library's
        # own takes six times as long.
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(secret.encode())
        outer.update(inner.digest())
        return outer.hexdigest()

    def matches(self, secret: str, digest: str) -> bool:
        """Whether `digest` is that of `secret`, in constant time."""
        return hmac.compare_digest(self.digest(secret), digest)

    def seal(self, text: str, *, purpose: str, bound_to: str) -> str:
        """`text` encrypted and authenticated (AES-256-GCM, its key by HKDF-SHA256 for this purpose), as base64.

        It can be read only together with the same `bound_to`, which is not secret and not part of the result.
        """
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = AESGCM(self._derived(purpose)).encrypt(nonce, text.encode(), bound_to.encode())
        return base64.b64encode(nonce + sealed).decode()

    def unseal(self, sealed: str, *, purpose: str, bound_to: str) -> str:
        """What `seal` was given. Raises OtherSecretError."""
        try:
            raw = base64.b64decode(sealed, validate=True)
            opened = AESGCM(self._derived(purpose)).decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], bound_to.encode())
        except (InvalidTag, ValueError, binascii.Error) as error:
            raise OtherSecretError("it was sealed under another secret, or changed since") from error
        return opened.decode()

    def _derived(self, purpose: str) -> bytes:
        return HKDF(algorithm=SHA256(), length=32, salt=None, info=f"stoker:{purpose}".encode()).derive(self._key)


def new_key() -> tuple[str, str]:
    """A new API key's id and the key itself, `sk-stoker-<id>-<256 random bits>`."""
    key_id = secrets.token_hex(6)
    return key_id, f"{KEY_PREFIX}{key_id}-{secrets.token_urlsafe(32)}"


def key_id_of(key: str) -> str | None:
    """The id inside an API key, or None when it is not written like one."""
    key_id, dash, random = key.removeprefix(KEY_PREFIX).partition("-")
    return key_id if key.startswith(KEY_PREFIX) and dash and random else None


def new_join_token() -> str:
    """The cluster's own join token, with which any number of workers join."""
    return JOIN_TOKEN_PREFIX + secrets.token_urlsafe(32)


class OneTimeToken(NamedTuple):
    """What can be read off a join token for one worker."""

    id: str
    fingerprint: str  # of the authority of the cluster that made it: SHA-256, 64 hexadecimal digits


def new_one_time_token(fingerprint: str) -> tuple[str, str]:
    """A new one-time join token's id and the token, `st-join-<authority's fingerprint>.<id>.<256 random bits>`."""
    token_id = secrets.token_hex(6)
    return token_id, f"{JOIN_TOKEN_PREFIX}{fingerprint}.{token_id}.{secrets.token_urlsafe(32)}"


def one_time_token(token: str) -> OneTimeToken | None:
    """What a one-time join token says of itself, or None when it is not written like one."""
    found = _ONE_TIME_TOKEN.fullmatch(token)
    return OneTimeToken(id=found[2], fingerprint=found[1]) if found else None


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
        make_private(path, make + "\n")
    found = path.read_text().strip()
    if not found:
        raise ValueError(f"the file {path} is empty: remove it, and a new secret is made")
    return found
