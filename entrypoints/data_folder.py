"""What lies in the data folder: the secrets that the first start makes, and what is kept to be quick."""

from pathlib import Path

from stoker.secrets import ServerSecret, new_join_token, new_secret, read_or_make
from stoker.settings import Settings


def server_secret(settings: Settings) -> ServerSecret:
    """The server's secret: from the settings, or from the data folder (made on first use). Raises ValueError."""
    given = settings.secret.get_secret_value()
    return ServerSecret(given or read_or_make(settings.data_dir / "server-secret", new_secret()))


def join_token(settings: Settings) -> str:
    """The cluster's join token: from the settings, or from the data folder (made on first use)."""
    given = settings.worker.join_token.get_secret_value()
    return given or read_or_make(settings.data_dir / "join-token", new_join_token())


def known_join_token(settings: Settings) -> str:
    """The join token as a worker knows it: from the settings, or of a server on the same data folder; else empty."""
    path = settings.data_dir / "join-token"
    given = settings.worker.join_token.get_secret_value()
    return given or (path.read_text().strip() if path.exists() else "")


def header_cache(settings: Settings) -> Path:
    """Where headers of models are kept that were read before: of no worth, only of use."""
    return settings.data_dir / "cache"


def key_counters(settings: Settings) -> Path:
    """Where the API processes of this host count together what each key asks for."""
    return settings.data_dir / "server" / "key-counters"


def admin_key_file(settings: Settings) -> Path:
    """Where the first start leaves the admin's key, and where the CLI looks for it."""
    return settings.data_dir / "admin-key"


def server_mesh_folder(settings: Settings) -> Path:
    """Where the API process keeps its own identity in the mesh."""
    return settings.data_dir / "server" / "mesh"


def worker_mesh_folder(settings: Settings, name: str) -> Path:
    """Where a worker's agent keeps the worker's identity in the mesh, and what others may reach of it."""
    return settings.data_dir / "worker" / name / "mesh"


def usage_folder(settings: Settings) -> Path:
    """Where records of requests wait while the database is away."""
    return settings.data_dir / "usage"


def metrics_folder(settings: Settings) -> Path:
    """What the processes of one server count; it belongs to one start of the server."""
    return settings.data_dir / "metrics" / str(settings.api.port)
