"""`stoker server`: the API, and the OpenAI door."""

import asyncio
import socket

import structlog
import uvicorn
from prometheus_client import CollectorRegistry

from api.app import create_app
from api.deps import ApiContext
from api.keyring import KeyRing
from api.route_source import DatabaseRoutes
from entrypoints.admin_key import ensure_admin_key
from entrypoints.clock import utc_now
from entrypoints.data_folder import header_cache, join_token, server_secret
from stoker.remote_models import remote_models
from stoker.settings import Settings
from stoker.storage.engine import Database
from stoker.temporal import connect, quiet_runtime

log = structlog.get_logger()

SHUTDOWN_SECONDS = 5
"""How long requests in work may go on when the API is told to stop."""


class PortTakenError(Exception):
    """The address cannot be listened on; the message names the setting."""


async def run_server(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT. Raises PortTakenError."""
    listener = _listen(settings.api.host, settings.api.port)
    database = Database(settings.database_url)
    secret = server_secret(settings)
    await asyncio.to_thread(ensure_admin_key, settings, database, secret)
    context = ApiContext(
        database=database,
        temporal=await connect(settings.temporal.address, identity="api", lazy=True, runtime=quiet_runtime()),
        secret=secret,
        join_token_digest=secret.digest(join_token(settings)),
        keyring=KeyRing(database, secret, utc_now),
        routes=DatabaseRoutes(database, utc_now),
        registry=CollectorRegistry(),
        models=remote_models(header_cache(settings), allow_private_urls=settings.urls.allow_private),
        clock=utc_now,
    )
    config = uvicorn.Config(
        create_app(context),
        log_config=None,
        access_log=False,
        lifespan="on",
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        server_header=False,
        date_header=True,
    )
    log.info("api_listening", url=settings.api_url)
    await uvicorn.Server(config).serve(sockets=[listener])
    database.close()
    await asyncio.sleep(0.1)  # see control_plane


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise PortTakenError(
            f"cannot listen on {host}:{port}: {error.strerror}. Choose another: --port, STOKER_API__PORT"
        ) from error
    listener.listen(2048)  # before anybody is told that it listens
    return listener
