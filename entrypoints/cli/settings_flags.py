"""Settings as a process command gets them: flag > environment > file > default; what is wrong is said by its name."""

import json
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_origin

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_settings import SettingsError

from entrypoints.cli.errors import CliError, ExitCode
from stoker.settings import Settings

FLAGS: Mapping[str, str] = {
    "data_dir": "--data-dir",
    "log_level": "--log-level",
    "api.host": "--host",
    "api.port": "--port",
    "api.processes": "--processes",
    "temporal.port": "--temporal-port",
    "temporal.ui_port": "--temporal-ui-port",
    "worker.name": "--name",
    "worker.server": "--server",
    "worker.address": "--address",
    "worker.mesh_port": "--mesh-port",
    "worker.join_token": "--join-token-file",
    "worker.offer": "--offer",
    "worker.reserve": "--reserve",
    "worker.labels": "--label",
    "worker.model_dirs": "--model-dir",
    "worker.llama_server": "--llama-server",
    "worker.engine": "--engine",
}
"""The flag of each setting that has one."""

_UNSHOWN = {"secret", "worker.join_token", "database.url"}  # may hold a secret: never repeated


def settings_from(flags: Mapping[str, Any], names: Mapping[str, str] | None = None) -> Settings:
    """The settings with `flags` on top: values by dotted setting; None and empty ones were not given.

    `names` are flags that a command calls otherwise than FLAGS does.

    Raises CliError (USAGE) that names each wrong setting, its value and what would be right.
    """
    called = {**FLAGS, **(names or {})}
    given = {name: value for name, value in flags.items() if value not in (None, [], {})}
    config = os.environ.get("STOKER_CONFIG")
    if config and not Path(config).is_file():
        raise CliError(f"STOKER_CONFIG={config}: there is no such file", code=ExitCode.USAGE)
    try:
        return Settings(**_nested(given))
    except ValidationError as error:
        flag_of = {name: called[name] for name in given}
        messages = [_described(found["loc"], found["msg"], found["input"], flag_of) for found in error.errors()]
        raise CliError(*messages, code=ExitCode.USAGE) from error
    except SettingsError as error:
        raise CliError(*(_unparsed() or [str(error)]), code=ExitCode.USAGE) from error
    except tomllib.TOMLDecodeError as error:
        raise CliError(
            f"the settings file {config or 'stoker.toml'} is no TOML: {error}", code=ExitCode.USAGE
        ) from error
    except OSError as error:
        raise CliError(
            f"a settings file or secret cannot be read: {error.filename}: {error.strerror}", code=ExitCode.USAGE
        ) from error


def _nested(flags: Mapping[str, Any]) -> dict[str, Any]:
    tables: dict[str, Any] = {}
    for name, value in flags.items():
        *outer, last = name.split(".")
        table = tables
        for part in outer:
            table = table.setdefault(part, {})
        table[last] = value
    return tables


def _described(location: Sequence[int | str], message: str, value: object, flag_of: Mapping[str, str]) -> str:
    setting = ".".join(part for part in location if isinstance(part, str))
    name = flag_of.get(setting) or f"STOKER_{setting.replace('.', '__').upper()}"
    hidden = setting in _UNSHOWN or isinstance(value, SecretStr | dict) or setting not in dict(_settings())
    shown = "" if hidden else f"={value}"
    if "Extra inputs" in message:
        message = f"there is no setting {setting!r}"
    return f"{name}{shown}: {message.removeprefix('Value error, ')}"


def _unparsed() -> list[str]:
    """Lists and tables are JSON in the environment: the variables that hold one and are none."""
    messages = []
    for setting, annotation in _settings():
        variable = f"STOKER_{setting.replace('.', '__').upper()}"
        if variable in os.environ and get_origin(annotation) in (tuple, dict):
            try:
                json.loads(os.environ[variable])
            except ValueError:
                example = '["…", "…"]' if get_origin(annotation) is tuple else '{"key": "value"}'
                messages.append(f"{variable}={os.environ[variable]}: write it as JSON, like {example}")
    return messages


def _settings(model: type[BaseModel] = Settings, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _settings(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field.annotation
