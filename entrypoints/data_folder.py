"""What lies in the data folder: the secrets that the first start makes."""

from pathlib import Path

from sqlmodel import Session

from entrypoints.clock import utc_now
from stoker.domain.keys import Role
from stoker.secrets import ServerSecret, new_join_token, new_key, new_secret, read_or_make
from stoker.settings import Settings
from stoker.storage.engine import Database
from stoker.storage.keys import Keys


def server_secret(settings: Settings) -> ServerSecret:
    """The server's secret: from the settings, or from the data folder (made on first use). Raises ValueError."""
    given = settings.secret.get_secret_value()
    return ServerSecret(given or read_or_make(settings.data_dir / "server-secret", new_secret()))


def join_token(settings: Settings) -> str:
    """The cluster's join token: from the settings, or from the data folder (made on first use)."""
    given = settings.worker.join_token.get_secret_value()
    return given or read_or_make(settings.data_dir / "join-token", new_join_token())


def admin_key_file(settings: Settings) -> Path:
    """Where the first start leaves the admin's key, and where the CLI looks for it."""
    return settings.data_dir / "admin-key"


def ensure_admin_key(settings: Settings, database: Database, secret: ServerSecret) -> None:
    """Makes an admin key when there is none yet, and writes it to its file (0600)."""
    path = admin_key_file(settings)
    with database.write() as session:
        keys = Keys(session, utc_now())
        if path.exists() and _is_living(keys, secret, path.read_text().strip()):
            return
        if not path.exists() and any(key.role is Role.ADMIN and key.revoked_at is None for key in keys.all()):
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
