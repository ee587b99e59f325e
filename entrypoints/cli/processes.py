"""`stoker up | server | control-plane | worker | migrate`: the processes themselves.

Exit code 2 means: this process cannot run with these settings. A supervisor must not start it again.
"""

import os
import sys
from collections.abc import Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from entrypoints.cli.errors import CliError, ExitCode
from entrypoints.cli.flags import pairs
from entrypoints.cli.join_token_file import token_from
from entrypoints.inherited import LISTENER_FLAG, PARENT_FLAG

if TYPE_CHECKING:
    from stoker.settings import Settings

T = TypeVar("T")

DataDirOption = Annotated[
    Path | None, typer.Option("--data-dir", metavar="PATH", help="Where Stoker keeps its database, secrets and logs.")
]
LogLevelOption = Annotated[str | None, typer.Option("--log-level", help="debug, info, warning or error.")]
HostOption = Annotated[str | None, typer.Option("--host", help="The address that the API listens on.")]
PortOption = Annotated[int | None, typer.Option("--port", help="The port of the API.")]
OfferOption = Annotated[
    list[str] | None,
    typer.Option("--offer", metavar="DEVICE=SIZE", help="At most so much of a device, like cpu=2GiB. Repeatable."),
]
ReserveOption = Annotated[
    str | None, typer.Option("--reserve", metavar="ram=SIZE,vram=SIZE", help="Memory kept free for the system.")
]
LabelOption = Annotated[
    list[str] | None, typer.Option("--label", metavar="KEY=VALUE", help="A label of this worker. Repeatable.")
]
ModelDirOption = Annotated[
    list[Path] | None,
    typer.Option("--model-dir", metavar="PATH", help="Models may be served from here. Repeatable."),
]
LlamaServerOption = Annotated[
    Path | None, typer.Option("--llama-server", metavar="PATH", help="Your own llama-server; else see --engine.")
]
EngineOption = Annotated[
    str | None,
    typer.Option("--engine", metavar="NAME", help="auto, bundled, or one that `stoker engine list` shows."),
]


def up(
    data_dir: DataDirOption = None,
    host: HostOption = None,
    port: PortOption = None,
    temporal_port: Annotated[int | None, typer.Option(help="The port of the built-in Temporal server.")] = None,
    temporal_ui_port: Annotated[int | None, typer.Option(help="The port of its UI.")] = None,
    offer: OfferOption = None,
    reserve: ReserveOption = None,
    label: LabelOption = None,
    model_dir: ModelDirOption = None,
    llama_server: LlamaServerOption = None,
    engine: EngineOption = None,
    worker_name: Annotated[str | None, typer.Option(help="This machine's name as a worker.")] = None,
    log_level: LogLevelOption = None,
) -> None:
    """Run everything on this machine, until Ctrl-C."""
    settings = _settings(
        "up",
        {
            "data_dir": data_dir,
            "api.host": host,
            "api.port": port,
            "temporal.port": temporal_port,
            "temporal.ui_port": temporal_ui_port,
            "worker.offer": offer,
            "worker.reserve": reserve,
            "worker.labels": pairs("--label", label or ()),
            "worker.model_dirs": _folders(model_dir or ()),
            "worker.llama_server": _absolute(llama_server),
            "worker.engine": engine,
            "worker.name": worker_name,
            "log_level": log_level,
        },
        {"worker.name": "--worker-name"},
    )
    _check_limits(settings)
    _check_database(settings)
    _check_tracing(settings)

    from entrypoints.up import CannotStartError, run_up
    from stoker.temporal import TemporalUnreachableError

    with _database_errors():
        code = _run(run_up(settings), CannotStartError, TemporalUnreachableError)
    raise typer.Exit(code)


def server(
    host: HostOption = None,
    port: PortOption = None,
    processes: Annotated[int | None, typer.Option("--processes", help="So many processes share the port.")] = None,
    data_dir: DataDirOption = None,
    log_level: LogLevelOption = None,
    listener: Annotated[int | None, typer.Option(LISTENER_FLAG, hidden=True)] = None,
    parent: Annotated[int | None, typer.Option(PARENT_FLAG, hidden=True)] = None,
) -> None:
    """Run the API and the OpenAI endpoint.

    SIGHUP replaces its processes one after the other, by the program as it is installed then; nobody is refused
    meanwhile, and answers under way go on.
    """
    flags = {"api.host": host, "api.port": port, "api.processes": processes}
    settings = _settings("api", {**flags, "data_dir": data_dir, "log_level": log_level})
    _check_database(settings)
    _check_secret(settings)
    _check_tracing(settings)

    if listener is None or parent is None:
        from entrypoints.server import PortTakenError, run_server, server_command

        raise typer.Exit(_run(run_server(settings, server_command(sys.argv[1:])), PortTakenError))

    from api.limits.counter_file import CounterError
    from entrypoints.inherited import Inherited
    from entrypoints.server_process import run_server_process
    from stoker.storage.authority import AuthoritySealedError

    with _database_errors():
        _run(
            run_server_process(settings, Inherited(listener, parent)),
            AuthoritySealedError,
            CounterError,
            fast_loop=True,
        )


def control_plane(data_dir: DataDirOption = None, log_level: LogLevelOption = None) -> None:
    """Run the workflows that keep deployments alive."""
    settings = _settings("control-plane", {"data_dir": data_dir, "log_level": log_level})
    _check_database(settings)
    _check_tracing(settings)

    from entrypoints.control_plane import run_control_plane
    from entrypoints.placement_metrics import MetricsPortError
    from stoker.temporal import TemporalUnreachableError

    _run(run_control_plane(settings), MetricsPortError, TemporalUnreachableError)


def worker(
    server: Annotated[str | None, typer.Option("--server", metavar="URL", help="The API to join.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="This worker's name; else the host's.")] = None,
    address: Annotated[str | None, typer.Option("--address", help="Where the others reach this host.")] = None,
    mesh_port: Annotated[
        int | None, typer.Option("--mesh-port", help="The one port that they use there; else 8411 or a free one.")
    ] = None,
    join_token_file: Annotated[
        str | None,
        typer.Option("--join-token-file", metavar="PATH", help="Holds the token to join with; - is standard input."),
    ] = None,
    offer: OfferOption = None,
    reserve: ReserveOption = None,
    label: LabelOption = None,
    model_dir: ModelDirOption = None,
    llama_server: LlamaServerOption = None,
    engine: EngineOption = None,
    data_dir: DataDirOption = None,
    log_level: LogLevelOption = None,
) -> None:
    """Run the agent of this GPU host.

    `stoker workers token` makes a join token on the server. It may also come from STOKER_WORKER__JOIN_TOKEN, or from
    the file named by STOKER_WORKER__JOIN_TOKEN_FILE. An agent that has joined before needs none.
    """
    settings = _settings(
        "worker",
        {
            "worker.server": server,
            "worker.name": name,
            "worker.address": address,
            "worker.mesh_port": mesh_port,
            "worker.join_token": token_from(join_token_file),
            "worker.offer": offer,
            "worker.reserve": reserve,
            "worker.labels": pairs("--label", label or ()),
            "worker.model_dirs": _folders(model_dir or ()),
            "worker.llama_server": _absolute(llama_server),
            "worker.engine": engine,
            "data_dir": data_dir,
            "log_level": log_level,
        },
    )
    _check_limits(settings)
    _check_tracing(settings)

    from entrypoints.folder_lock import FolderInUseError
    from entrypoints.worker import run_worker
    from stoker.temporal import TemporalUnreachableError
    from worker_agent.control_api import JoinRefusedError
    from worker_agent.engine_programs import EngineError

    _run(run_worker(settings), JoinRefusedError, EngineError, FolderInUseError, TemporalUnreachableError)


def migrate(data_dir: DataDirOption = None, log_level: LogLevelOption = None) -> None:
    """Bring the database to this version's tables."""
    settings = _settings("migrate", {"data_dir": data_dir, "log_level": log_level})
    _check_database(settings)

    from stoker.storage.engine import Database, database_name
    from stoker.storage.migrate import migrate as migrate_tables

    with _database_errors():
        database = Database(settings.database_url)
        migrate_tables(database)
        database.close()
    typer.echo(f"The database has this version's tables: {database_name(settings.database_url)}.")


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    for command in (up, server, control_plane, worker, migrate):
        app.command()(command)


def _settings(process: str, flags: Mapping[str, Any], names: Mapping[str, str] | None = None) -> "Settings":
    """The settings, with a data folder and logs that name the process. `names`: flags that are called otherwise."""
    from entrypoints.cli.settings_flags import settings_from
    from stoker.logging import configure_logging

    settings = settings_from(flags, names or {})
    os.umask(0o077)  # databases, logs and state hold secrets, and the folder may be one that others can look into
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise CliError(
            f"the data folder {settings.data_dir} cannot be made: {error.strerror}",
            code=ExitCode.USAGE,
            hint="choose another with --data-dir or STOKER_DATA_DIR",
        ) from error
    configure_logging(process, settings.log_level)
    return settings


def _run(process: Coroutine[Any, Any, T], *refusals: type[Exception], fast_loop: bool = False) -> T:
    """Runs the process until it ends. `refusals`: what it raises when starting it again cannot help."""
    import asyncio

    loop_factory = None
    if fast_loop and sys.platform != "win32":
        import uvloop

        loop_factory = uvloop.new_event_loop
    try:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            return runner.run(process)
    except refusals as error:
        raise CliError(str(error), code=ExitCode.USAGE) from error


@contextmanager
def _database_errors() -> Iterator[None]:
    """A database that is away is worth another try (exit code 1); one without our tables is not (2)."""
    from sqlalchemy.exc import DBAPIError, ProgrammingError

    try:
        yield
    except DBAPIError as error:
        said = str(error.orig or error).strip().splitlines()[0]
        if isinstance(error, ProgrammingError) or "no such table" in said:
            raise CliError(
                f"the database does not have this version's tables: {said}",
                code=ExitCode.USAGE,
                hint="run `stoker migrate`",
            ) from error
        raise CliError(f"the database does not answer: {said}") from error


def _check_limits(settings: "Settings") -> None:
    from worker_agent.limits import parse_offers, parse_reserves

    try:
        parse_offers(settings.worker.offer)
        parse_reserves(settings.worker.reserve)
    except ValueError as error:
        raise CliError(str(error), code=ExitCode.USAGE) from error


def _check_secret(settings: "Settings") -> None:
    from entrypoints.data_folder import server_secret

    try:
        server_secret(settings)
    except ValueError as error:
        raise CliError(f"STOKER_SECRET: {error}", code=ExitCode.USAGE) from error


def _check_tracing(settings: "Settings") -> None:
    from entrypoints.tracing import TracingMissingError, check_installed

    try:
        check_installed(settings)
    except TracingMissingError as error:
        raise CliError(str(error), code=ExitCode.USAGE) from error


def _check_database(settings: "Settings") -> None:
    """The URL is not repeated in the message: it may hold a password."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        kind = make_url(settings.database_url).get_backend_name()
    except ArgumentError:
        kind = "no database URL"
    if kind not in ("sqlite", "postgresql"):
        raise CliError(
            f"STOKER_DATABASE__URL is {kind}: write sqlite:///PATH or postgresql://USER:PASSWORD@HOST/NAME",
            code=ExitCode.USAGE,
        )


def _folders(paths: Iterable[Path]) -> list[Path]:
    folders = [path.expanduser().absolute() for path in paths]
    for folder in folders:
        if not folder.is_dir():
            raise CliError(f"--model-dir '{folder}': there is no such folder", code=ExitCode.USAGE)
    return folders


def _absolute(path: Path | None) -> Path | None:
    return path.expanduser().absolute() if path is not None else None
