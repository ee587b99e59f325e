"""Every setting: flag > environment `STOKER_*` (`__` nests, `…_FILE` names a file with a secret) > file > default.

Only `entrypoints` reads them.
"""

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import platformdirs
from pydantic import BaseModel, Field, SecretStr, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from stoker.domain.absence import LEAST_GRACE_SECONDS
from stoker.domain.base import DNS_LABEL_HINT, DNS_LABEL_PATTERN


def default_data_dir() -> Path:
    """systemd's STATE_DIRECTORY, or the user's data folder for Stoker."""
    systemd = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    return Path(systemd) if systemd else platformdirs.user_data_path("stoker")


class _Section(BaseModel, extra="forbid"):
    """One table of the settings file; a misspelt name is an error, not silence."""


def _checked_url(value: str, of: str, example: str) -> str:
    try:
        parts = urlsplit(value)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if value and not usable:
        raise ValueError(f"{value!r} is no address of {of}: write it like {example}")
    return value


class ApiSettings(_Section):
    """Where the API listens."""

    host: str = "127.0.0.1"
    port: int = Field(default=8410, ge=1, le=65535)
    processes: int = Field(default=1, ge=1, le=64)  # that answer on the one port
    drain_timeout: float = Field(default=30.0, ge=0, le=86_400)  # seconds that a stopping process's streams may go on
    wake_timeout: float = Field(default=120.0, ge=0, le=3600)  # seconds that requests wait for a model that sleeps
    usage_days: int = Field(default=30, ge=1, le=3650)  # single requests are kept so long; their sums for good
    audit_days: int = Field(default=400, ge=1, le=3650)  # entries of the audit log are kept so long


class ControlPlaneSettings(_Section):
    """Where the control plane shows its metrics. `metrics_port` 0: nowhere."""

    metrics_host: str = "127.0.0.1"
    metrics_port: int = Field(default=0, ge=0, le=65535)


class DatabaseSettings(_Section):
    """`sqlite:///path` or `postgresql://user:password@host/name`; empty: SQLite in the data folder."""

    url: str = ""


class TemporalSettings(_Section):
    """`address`: a cluster to use instead of the built-in server (TEMPORAL_ADDRESS and profiles work too)."""

    address: str = ""
    port: int = Field(default=7233, ge=1, le=65535)  # of the built-in server
    ui_port: int = Field(default=8233, ge=1, le=65535)
    ui_url: str = ""  # where browsers find the UI, for links to it; empty: that of the built-in server

    @field_validator("ui_url")
    @classmethod
    def _is_address(cls, value: str) -> str:
        if value and not re.fullmatch(r"https?://[A-Za-z0-9.:\[\]-]+(/[A-Za-z0-9._~/-]*)?", value):
            raise ValueError(f"{value!r} is no address of a page: write it like http://127.0.0.1:8233")
        return value.rstrip("/")


class TracingSettings(_Section):
    """Traces by OpenTelemetry: `endpoint` is a collector's base URL; empty: what OTEL_EXPORTER_OTLP_* say, or none."""

    endpoint: str = ""

    @field_validator("endpoint")
    @classmethod
    def _is_url(cls, value: str) -> str:
        return _checked_url(value, "a collector", "http://127.0.0.1:4318")


class UrlSettings(_Section):
    """Models named by a web address.

    `allow_private`: they may be plain http, and lead (or be redirected) to loopback, private and link-local addresses.
    """

    allow_private: bool = False


class WorkerSettings(_Section):
    """One GPU host."""

    name: str = ""  # empty: the host's name
    server: str = ""  # the API's URL; empty: the API on this machine
    address: str = "127.0.0.1"  # where the cluster reaches this host
    mesh_port: int = Field(default=0, ge=0, le=65535)  # of its gateway; 0: 8411, or where that is taken another, kept
    join_token: SecretStr = SecretStr("")  # empty: the one in the data folder
    offer: tuple[str, ...] = ()  # "cpu=2GiB"
    reserve: str = ""  # "ram=2GiB,vram=1GiB"
    labels: dict[str, str] = Field(default_factory=dict)
    model_dirs: tuple[Path, ...] = ()  # folders whose files may be served by file:PATH; empty: the user's home
    engine: str = Field(default="auto", min_length=1)  # or "bundled", or an installed engine's name
    llama_server: Path | None = None  # an administrator's own llama-server, before all others
    rpc_server: Path | None = None  # its ggml-rpc-server; None: the one beside it
    evict_for_room: bool = True  # models that Stoker fetched and nobody uses may go when another one lacks room
    stall_timeout: float = Field(default=60.0, ge=5, le=86_400)  # seconds without progress until an engine is frozen
    stop_processes_on_exit: bool = False  # else engines go on without their agent, and the next one adopts them

    @field_validator("name")
    @classmethod
    def _is_label(cls, value: str) -> str:
        if value and not re.fullmatch(DNS_LABEL_PATTERN, value):
            raise ValueError(f"{value!r} is no worker name: {DNS_LABEL_HINT}")
        return value

    @field_validator("server")
    @classmethod
    def _is_url(cls, value: str) -> str:
        return _checked_url(value, "a server", "http://127.0.0.1:8410")


class Settings(BaseSettings):
    """All settings of all processes."""

    model_config = SettingsConfigDict(
        env_prefix="STOKER_", env_nested_delimiter="__", extra="forbid", nested_model_default_partial_update=True
    )

    data_dir: Path = Field(default_factory=default_data_dir)
    log_level: str = Field(default="info", pattern="^(debug|info|warning|error)$")
    secret: SecretStr = SecretStr("")  # the server's secret; empty: made once in the data folder
    pending_hold: float = Field(default=600.0, ge=0, le=31_536_000)  # seconds; who waits longer reserves devices
    # Seconds of an agent's silence until all is moved. With less, many that fall silent together would not be seen so.
    worker_grace: float = Field(default=30.0, ge=LEAST_GRACE_SECONDS, le=86_400)
    api: ApiSettings = ApiSettings()
    control_plane: ControlPlaneSettings = ControlPlaneSettings()
    database: DatabaseSettings = DatabaseSettings()
    temporal: TemporalSettings = TemporalSettings()
    tracing: TracingSettings = TracingSettings()
    urls: UrlSettings = UrlSettings()
    worker: WorkerSettings = WorkerSettings()

    @field_validator("data_dir")
    @classmethod
    def _is_absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @property
    def database_url(self) -> str:
        """The database that is really used."""
        return self.database.url or f"sqlite:///{self.data_dir / 'stoker.db'}"

    @property
    def api_url(self) -> str:
        """The API as processes on this machine reach it."""
        host = "127.0.0.1" if self.api.host in ("0.0.0.0", "::") else self.api.host  # noqa: S104
        return f"http://{f'[{host}]' if ':' in host else host}:{self.api.port}"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The order of precedence, first wins."""
        named = os.environ.get("STOKER_CONFIG")
        path = Path(named) if named else platformdirs.user_config_path("stoker") / "stoker.toml"
        toml = TomlConfigSettingsSource(settings_cls, toml_file=path)
        if isinstance(env_settings, EnvSettingsSource):  # `…_FILE` is no setting: see _SecretFiles
            variables = env_settings.env_vars.items()
            env_settings.env_vars = {name: value for name, value in variables if not name.lower().endswith("_file")}
        return init_settings, env_settings, _SecretFiles(settings_cls), toml, _UnknownTables(settings_cls)


class _SecretFiles(PydanticBaseSettingsSource):
    """`STOKER_WORKER__JOIN_TOKEN_FILE=/run/secrets/token`: the setting is the file's content."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        raise KeyError(field_name)  # nothing is read field by field: see __call__

    def __call__(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, path in os.environ.items():
            if name.startswith("STOKER_") and name.endswith("_FILE") and path:
                *tables, last = name.removeprefix("STOKER_").removesuffix("_FILE").lower().split("__")
                table = found
                for part in tables:
                    table = table.setdefault(part, {})
                table[last] = Path(path).read_text().strip()
        return found


class _UnknownTables(PydanticBaseSettingsSource):
    """`STOKER_WROKER__NAME`: the environment is read by known names only, so that this would go unseen.

    Names without `__` are let be: Kubernetes sets some of its own where a service is called stoker.
    """

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        raise KeyError(field_name)  # nothing is read field by field: see __call__

    def __call__(self) -> dict[str, Any]:
        names = (name.removeprefix("STOKER_") for name in os.environ if name.startswith("STOKER_"))
        tables = {name.split("__")[0].lower() for name in names if "__" in name}
        return {table: {} for table in tables - set(self.settings_cls.model_fields)}
