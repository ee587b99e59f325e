"""The file of `stoker apply`, `diff` and `export`: read, checked whole, and written.

    version: 1
    deployments:
      - name: smol
        model: hf:bartowski/SmolLM2-135M-Instruct-GGUF:Q4_K_M
    routes:
      - name: gpt-4o-mini
        targets: [{deployment: smol}]

A deployment's fields are those of POST /api/v1/deployments; a route's those of PUT /api/v1/routes, and its name.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from api.schemas.deployments import DeploymentCreate
from api.schemas.routes import RouteWrite
from entrypoints.cli.errors import CliError, ExitCode
from entrypoints.cli.marked_yaml import MarkedYaml, MarkedYamlError, load
from entrypoints.cli.refusals import field_messages
from stoker.domain.cluster_plan import ClusterSpec, Fault
from stoker.domain.model_routes import ROUTE_NAME_PATTERN, RouteSpec

MOST_CHARACTERS = 8 * 2**20

_MOST_ERRORS = 20
"""Wrong fields that are told one by one."""


class RouteEntry(RouteWrite):
    """A route with its name."""

    name: Annotated[str, Field(pattern=ROUTE_NAME_PATTERN)]


class ClusterDocument(BaseModel):
    """What the file says."""

    model_config = ConfigDict(extra="forbid")

    version: Literal[1]
    deployments: list[DeploymentCreate] = []
    routes: list[RouteEntry] = []


@dataclass(frozen=True)
class ClusterFile:
    """A file that was read: what it says, and on which lines."""

    name: str
    document: ClusterDocument
    marked: MarkedYaml

    @property
    def spec(self) -> ClusterSpec:
        """What is wanted."""
        return ClusterSpec(
            deployments=tuple(each.spec() for each in self.document.deployments),
            routes=tuple(each.spec(each.name) for each in self.document.routes),
        )

    def bodies(self) -> dict[str, dict[str, Any]]:
        """What is sent for each deployment: as it was written, and only what is not the default."""
        return {each.name: each.model_dump(mode="json", exclude_defaults=True) for each in self.document.deployments}

    def route_bodies(self) -> dict[str, dict[str, Any]]:
        """What is sent for each route."""
        return {
            each.name: each.model_dump(mode="json", exclude={"name"}, exclude_defaults=True)
            for each in self.document.routes
        }

    def place_of(self, deployment: str) -> str:
        """Where a deployment stands, for an error about it: `cluster.yaml:14: deployments.3 (smol)`."""
        index = [each.name for each in self.document.deployments].index(deployment)
        return f"{self._at(('deployments', index))}: deployments.{index} ({deployment})"

    def refuse(self, faults: Sequence[Fault]) -> None:
        """Raises CliError (USAGE) where there are any: a line each, with where it stands."""
        if faults:
            raise _refusal(
                [f"{self._at(fault.path)}: {_dotted(fault.path)} {fault.value!r}: {fault.message}" for fault in faults]
            )

    def _at(self, path: Sequence[str | int]) -> str:
        return f"{self.name}:{self.marked.line(path)}"


def read_cluster_file(source: str) -> ClusterFile:
    """What `--file SOURCE` says; "-" is standard input. Raises CliError (USAGE) naming each line that is wrong."""
    try:
        text = sys.stdin.read() if source == "-" else Path(source).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise CliError(f"--file {source}: it cannot be read: {reason}", code=ExitCode.USAGE) from error
    return parse(text, "standard input" if source == "-" else source)


def parse(text: str, name: str) -> ClusterFile:
    """The file's content; `name` is what errors call it. Raises CliError (USAGE) naming each line that is wrong."""
    if len(text) > MOST_CHARACTERS:
        message = f"{name}: it has {len(text)} characters, and at most {MOST_CHARACTERS} are read"
        raise CliError(message, code=ExitCode.USAGE)
    try:
        marked = load(text)
    except MarkedYamlError as error:
        raise CliError(f"{name}{f':{error.line}' if error.line else ''}: {error}", code=ExitCode.USAGE) from error
    if marked.data is None:
        hint = "begin with `version: 1`; `stoker export` prints such a file"
        raise CliError(f"{name}: it is empty", code=ExitCode.USAGE, hint=hint)
    try:
        document = ClusterDocument.model_validate(marked.data)
    except ValidationError as error:
        raise _refusal(_wrong_fields(error, marked, name)) from error
    return ClusterFile(name, document, marked)


def written(spec: ClusterSpec) -> str:
    """The file that says `spec`, as YAML: by name, and only what is not the default."""
    deployments = [DeploymentCreate.of(each) for each in sorted(spec.deployments, key=lambda each: each.name)]
    routes = [_entry(each) for each in sorted(spec.routes, key=lambda each: each.name)]
    document = {
        "version": 1,
        "deployments": [each.model_dump(mode="json", exclude_defaults=True) for each in deployments],
        "routes": [{"name": each.name, **each.model_dump(mode="json", exclude_defaults=True)} for each in routes],
    }
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True)


def _entry(spec: RouteSpec) -> RouteEntry:
    return RouteEntry.model_validate(spec.model_dump(mode="json"))


def _wrong_fields(error: ValidationError, marked: MarkedYaml, name: str) -> list[str]:
    """A line each: where it stands, the field, what was written, and what would be right."""
    from api.errors import field_errors  # takes its time, for it loads all that can go wrong in the API

    told = []
    for fault, field in zip(error.errors(), field_errors(error.errors()), strict=True):
        given = fault["input"]
        if fault["type"] == "string_type" and isinstance(given, bool | int | float):
            field.message += f", and YAML reads this as a {_KINDS[type(given)]}: write it in quotes"
        if fault["type"] == "extra_forbidden":
            field.message = "there is no such field"
        if not fault["loc"]:
            field.field, field.message = "the file", "write fields: version, deployments, routes"
        (message,) = field_messages([field.model_dump()], {})
        told.append(f"{name}:{marked.line(fault['loc'])}: {message}")
    return told


_KINDS = {bool: "truth value", int: "number", float: "number"}


def _refusal(messages: Sequence[str]) -> CliError:
    more = len(messages) - _MOST_ERRORS
    told = [*messages[:_MOST_ERRORS], *([f"and {more} more"] if more > 0 else [])]
    return CliError(*told, code=ExitCode.USAGE, hint="nothing was applied")


def _dotted(path: Sequence[str | int]) -> str:
    return ".".join(map(str, path))
