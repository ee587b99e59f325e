"""What a server on this host depends on: Temporal, and the database."""

import asyncio
from pathlib import Path

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlmodel import select
from temporalio.service import RPCError

from entrypoints.checks.findings import Finding, ok, warning, wrong
from entrypoints.temporal_server import configured_address
from stoker.domain.naming import CONTROL_QUEUE
from stoker.settings import Settings
from stoker.storage.engine import Database, database_name
from stoker.storage.migrate import revisions
from stoker.storage.tables import KeyRow
from stoker.temporal import TemporalUnreachableError, connect, has_pollers

TEMPORAL_WITHIN_SECONDS = 3.0

_END_SECONDS = 0.5  # lets the SDK's threads end: else the interpreter may crash at exit (sdk-python #300)

_ANOTHER = "the API that answers has another"
_ADVICE_FOR_ANOTHER = (
    "set STOKER_DATABASE__URL, or STOKER_DATA_DIR, for this command as for the server; "
    "under systemd they are in /etc/stoker/server.env: docs/administrators.md has the command"
)


async def check_temporal(settings: Settings, *, running: bool) -> list[Finding]:
    """That Temporal answers, and that somebody takes work there. `running`: whether Stoker's API answers here."""
    named = configured_address(settings)
    address = named or f"127.0.0.1:{settings.temporal.port}"
    try:
        client = await connect(address, wait_seconds=TEMPORAL_WITHIN_SECONDS)
        taken = await has_pollers(client, CONTROL_QUEUE)
    except TemporalUnreachableError:
        if not named and not running:
            return [ok("Temporal", found="the built-in one, which `stoker up` starts")]
        if not named:  # the API tells of its own; this one is only what these settings say
            advice = "set STOKER_TEMPORAL__PORT for this command as for `stoker up`"
            return [warning("Temporal", found=f"the built-in one does not answer at {address}", advice=advice)]
        advice = "start it; or correct STOKER_TEMPORAL__ADDRESS or TEMPORAL_ADDRESS"
        return [wrong("Temporal", found=f"it does not answer at {address}", advice=advice)]
    except (RPCError, RuntimeError) as error:
        advice = "see Temporal's own log, and that the namespace is there"
        return [wrong("Temporal", found=f"{address} does not serve us: {error}", advice=advice)]
    finally:
        await asyncio.sleep(_END_SECONDS)
    found = ok("Temporal", found=f"answers at {address}")
    if taken:
        return [found, ok("control plane", found="takes work from its queue")]
    advice = "start it: `stoker control-plane`, or `stoker up`"
    return [found, wrong("control plane", found="nobody takes work from its queue", advice=advice)]


def check_database(settings: Settings, *, running: bool) -> list[Finding]:
    """That the database answers, and has this version's tables. Neither its URL nor its password is repeated.

    `running`: whether Stoker's API answers here; it has a database, so one that is not there is not its own.
    Blocks, for as long as the database may take to connect.
    """
    try:
        url = make_url(settings.database_url)
    except ArgumentError:
        advice = "write sqlite:///PATH or postgresql://USER:PASSWORD@HOST/NAME"
        return [wrong("database", found="STOKER_DATABASE__URL is no database URL", advice=advice)]
    is_sqlite = url.get_backend_name() == "sqlite"
    name = database_name(settings.database_url)
    if is_sqlite and not (url.database and Path(url.database).exists()):
        if not running:
            return [ok("database", found=f"{name}: made by the first start")]
        return [warning("database", found=f"{name} is not there: {_ANOTHER}", advice=_ADVICE_FOR_ANOTHER)]
    try:
        there, ours, used = _look(settings.database_url)
    except SQLAlchemyError as error:
        said = str(error.orig or error if isinstance(error, DBAPIError) else error).strip().splitlines()[0]
        advice = "start it; or correct STOKER_DATABASE__URL: its host, user, password and name"
        return [wrong("database", found=f"{name}: {said}", advice=advice)]
    if there == ours and running and not used:  # made by `stoker migrate`, with these settings too
        return [warning("database", found=f"{name} was never served from: {_ANOTHER}", advice=_ADVICE_FOR_ANOTHER)]
    if there == ours:
        return [ok("database", found=f"{name}, with this version's tables ({ours})")]
    if there > ours:
        advice = "run that version here too: an older one does not know the tables"
        return [warning("database", found=f"{name}: its tables ({there}) are a newer version's", advice=advice)]
    advice = "run `stoker migrate`; `stoker up` does so by itself"
    return [wrong("database", found=f"{name}: its tables ({there or 'none'}) are not this version's", advice=advice)]


def _look(url: str) -> tuple[str, str, bool]:
    """The tables' revision, ours, and whether a server has used it: each makes a key on its first start."""
    database = Database(url)
    try:
        there, ours = revisions(database)
        if there != ours:
            return there, ours, True
        with database.read() as session:
            return there, ours, session.exec(select(KeyRow.id).limit(1)).first() is not None
    finally:
        database.close()
