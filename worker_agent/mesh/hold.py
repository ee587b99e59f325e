"""Holding a link: a byte each second, both ways. Who hears none for some seconds knows that the other is gone."""

import asyncio
from typing import NoReturn

from stoker.mesh.identity import MeshError
from stoker.mesh.wire import HEARTBEAT, HEARTBEAT_SECONDS, SILENCE_SECONDS
from worker_agent.mesh.secure_socket import SecureSocket


class LinkLostError(MeshError):
    """A held link is no more; the message says how that was seen."""


async def hold(secure: SecureSocket) -> NoReturn:
    """Holds the link until it is lost: raises LinkLostError. The socket is the caller's to close."""
    listening = asyncio.create_task(_listen(secure), name="heartbeats heard")
    sending = asyncio.create_task(_send(secure), name="heartbeats sent")
    try:
        done, _ = await asyncio.wait((listening, sending), return_when=asyncio.FIRST_COMPLETED)
        reasons = [str(task.exception()) for task in (listening, sending) if task in done]
        raise LinkLostError(reasons[0])
    finally:
        listening.cancel()
        sending.cancel()
        await asyncio.gather(listening, sending, return_exceptions=True)


async def _listen(secure: SecureSocket) -> NoReturn:
    while True:
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                heard = await secure.read(4096)
        except TimeoutError as error:
            raise LinkLostError(f"nothing was heard for {SILENCE_SECONDS:g} s") from error
        except OSError as error:
            raise LinkLostError(f"it broke off: {error}") from error
        if not heard:
            raise LinkLostError("the other side has closed it")


async def _send(secure: SecureSocket) -> NoReturn:
    while True:
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                await secure.write(HEARTBEAT)
        except TimeoutError as error:
            raise LinkLostError(f"nothing could be sent for {SILENCE_SECONDS:g} s") from error
        except OSError as error:
            raise LinkLostError(f"it broke off: {error}") from error
        await asyncio.sleep(HEARTBEAT_SECONDS)
