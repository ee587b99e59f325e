"""The first admin key: made once, left in a file that only its user can read."""

from pathlib import Path

from sqlmodel import Session

from entrypoints.clock import utc_now
from entrypoints.data_folder import admin_key_file
from stoker.domain.keys import Role
from stoker.secrets import ServerSecret, new_key, read_or_make
from stoker.settings import Settings
from stoker.storage.engine import Database
from stoker.storage.keys import Keys


def ensure_admin_key(settings: Settings, database: Database, secret: ServerSecret) -> None:
    """Makes an admin key when there is none yet, and writes it to its file (0600)."""
    path = admin_key_file(settings)
    with database.write() as session:
        keys = Keys(session, utc_now())
        if path.exists() and _is_living(keys, secret, path.read_text().strip()):
            return
        if not path.exists() and any(key.role is Role.ADMIN for key, _ in keys.digests().values()):
            return  # somebody keeps it elsewhere: a second one must not appear on disk
        path.unlink(missing_ok=True)
        _make(keys, session, secret, path)


def _make(keys: Keys, session: Session, secret: ServerSecret, path: Path) -> None:
    key_id, key = new_key()
    keys.add(key_id, "made by the first start", Role.ADMIN, secret.digest(key))
    session.flush()
    read_or_make(path, key)


def _is_living(keys: Keys, secret: ServerSecret, key: str) -> bool:
    return any(secret.matches(key, digest) for _, digest in keys.digests().values())
