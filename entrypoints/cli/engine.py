"""`stoker engine install | list | remove`: the native engines of this machine."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from entrypoints.cli.default_command import ListsByDefault
from entrypoints.cli.errors import CliError, ExitCode
from entrypoints.cli.flags import OutputOption

BackendName = Literal["auto", "cpu", "cuda", "metal", "vulkan", "rocm"]


def install(
    backend: Annotated[
        BackendName, typer.Option(help="What to compute on. auto: the GPU that is here, if its toolchain is too.")
    ] = "auto",
    jobs: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Compilations at once; else by cores and free memory.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Build it again, though it is installed.")] = False,
    source: Annotated[
        Path | None, typer.Option(metavar="PATH", help="llama-cpp-python's sdist, where no index can be reached.")
    ] = None,
    output: OutputOption = "table",
) -> None:
    """Build llama.cpp for this machine and install it. Workers that start afterwards use it.

    Takes source, cmake and ninja from the Python package index; needs a C++ compiler, 1 GiB of disk (4 for CUDA or
    ROCm) and some minutes. What is installed already is not built again.
    """
    from entrypoints.cli.build_progress import display
    from entrypoints.cli.output import duration, print_data
    from entrypoints.cli.views.engines import installed_data
    from stoker.domain.units import format_bytes
    from worker_agent.engine_host import look_at_host
    from worker_agent.engine_install import InstallRequest, install_engine
    from worker_agent.engine_options import Backend, EngineInstallError, choose_backend

    with display() as shown:
        try:
            host = look_at_host()
            choice = choose_backend(None if backend == "auto" else Backend(backend), host)
            shown.note(f"backend {choice.backend}: {choice.reason}")
            path = source.expanduser().absolute() if source else None
            request = InstallRequest(backend=choice.backend, jobs=jobs, force=force, source=path)
            engine = install_engine(request, host, shown)
        except EngineInstallError as error:
            raise CliError(str(error)) from error
    manifest = engine.manifest
    if output != "table":
        print_data(installed_data(engine), output)
        return
    typer.echo(f"{manifest.name}: llama.cpp {manifest.version}, RPC protocol {manifest.rpc_protocol}")
    typer.echo(f"  {format_bytes(engine.size)} in {engine.folder}, built in {duration(manifest.build_seconds)}")


def list_engines(output: OutputOption = "table") -> None:
    """List engines (the default): bundled, installed, your own.

    The one that a worker uses which starts now is marked with *.
    """
    from entrypoints.cli.output import print_data, show
    from entrypoints.cli.settings_flags import settings_from
    from entrypoints.cli.views.engines import engines_data, engines_table
    from worker_agent.engine_choice import choose_engine
    from worker_agent.engine_programs import EngineError
    from worker_agent.engine_store import EngineStore

    worker, store = settings_from({}).worker, EngineStore()
    try:
        chosen = choose_engine(
            worker.engine, llama_server=worker.llama_server, rpc_server=worker.rpc_server, store=store
        )
    except EngineError as error:
        raise CliError(
            str(error), code=ExitCode.USAGE, hint="see STOKER_WORKER__LLAMA_SERVER and STOKER_WORKER__RPC_SERVER"
        ) from error
    engines = engines_data(chosen, store)
    if output != "table":
        print_data(engines, output)
        return
    show(engines_table(engines))
    typer.echo(f"A worker that starts here uses {chosen.name}: {chosen.reason}.", err=True)
    if chosen.rpc_problem:
        typer.echo(f"{chosen.name} serves no RPC: {chosen.rpc_problem}", err=True)
    for name, reason in chosen.passed_over.items():
        typer.echo(f"{name} cannot be used: {reason}", err=True)


def remove(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As `stoker engine list` shows it.")],
) -> None:
    """Remove an installed engine. Servers that run on it go on; its workers start no new ones until their restart."""
    from worker_agent.engine_store import EngineStore

    store = EngineStore()
    try:
        there = store.remove(name)
    except OSError as error:
        raise CliError(f"{error.filename}: {error.strerror}") from error
    if not there:
        raise CliError(f"no engine {name!r} is installed in {store.folder}", code=ExitCode.NOT_FOUND)
    typer.echo(f"{name}: removed")
    typer.echo("A worker that runs on it takes no new servers: restart it, and it chooses another.", err=True)


def register(app: typer.Typer) -> None:
    """Adds the group."""
    group = typer.Typer(cls=ListsByDefault, help="llama.cpp on this machine: build it, list it, remove it.")
    group.command()(install)
    group.command("list")(list_engines)
    group.command("ls", hidden=True)(list_engines)
    group.command()(remove)
    app.add_typer(group, name="engine")
