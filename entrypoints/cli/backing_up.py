"""`stoker backup` and `stoker restore`: a data folder as one copy, and back."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from entrypoints.cli.errors import CliError
from entrypoints.cli.processes import DataDirOption

FolderArgument = Annotated[Path, typer.Argument(metavar="FOLDER", help="The backup.", show_default=False)]


def backup(folder: FolderArgument, data_dir: DataDirOption = None) -> None:
    """Copy databases and secrets while Stoker runs.

    For `stoker up`, and other systems on SQLite; docs/backup.md tells about PostgreSQL. The copy opens the cluster to
    whoever has it: keep it as you keep a key.
    """
    from entrypoints.backup import SECRETS, TEMPORAL, back_up
    from entrypoints.cli.settings_flags import settings_from
    from entrypoints.clock import utc_now
    from stoker.domain.units import format_bytes

    settings = settings_from({"data_dir": data_dir})
    with _told():
        made = back_up(settings, folder.expanduser().absolute(), utc_now())
    size = sum(file.bytes for file in made.files.values())
    typer.echo(f"Backed up {settings.data_dir} to {folder}: {len(made.files)} files, {format_bytes(size)}.")
    if TEMPORAL not in made.files:
        typer.echo("Temporal is not in it: it runs elsewhere, and is backed up there.")
    if missing := [name for name in SECRETS[:2] if name not in made.files]:
        typer.echo(f"Not in it: {', '.join(missing)}. They come from settings, and are kept where these are.")


def restore(folder: FolderArgument, data_dir: DataDirOption = None) -> None:
    """Put a backup into an empty data folder."""
    from entrypoints.backup import restore as restore_backup
    from entrypoints.cli.settings_flags import settings_from

    settings = settings_from({"data_dir": data_dir})
    with _told():
        made = restore_backup(settings, folder.expanduser().absolute())
    typer.echo(f"Restored the backup of {made.made_at:%Y-%m-%d %H:%M:%S} UTC to {settings.data_dir}.")
    typer.echo("Next: `stoker up` with this data folder; what was deployed then starts by itself.")


@contextmanager
def _told() -> Iterator[None]:
    from entrypoints.backup import BackupError

    try:
        yield
    except BackupError as error:
        raise CliError(str(error), hint=error.hint) from error
    except OSError as error:
        raise CliError(str(error)) from error


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command()(backup)
    app.command()(restore)
