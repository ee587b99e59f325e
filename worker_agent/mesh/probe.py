"""The check of a way before it is used: how long a message takes there and back, and how much it carries.

client   "e" + 16 bytes              gateway   the same 16 bytes
         "b" + size (4 bytes) + so many bytes
         "s"                                   "k" when it has all of them
"""

import asyncio
import statistics
import struct
from pathlib import Path

from stoker.domain.base import Bytes, Value, WorkerName
from stoker.domain.units import MIB
from stoker.mesh.identity import MeshError, MeshIdentity
from stoker.mesh.wire import Verb
from worker_agent.mesh.secure_socket import SecureSocket
from worker_agent.mesh.way import open_way

ECHOES = 9
_ECHO = b"stoker mesh echo"
_BLOCK = 262_144  # bytes
_MOST = 16 * MIB  # sent for the bandwidth
_LONGEST = 1.5  # seconds of sending: a slow way is measured with less
_DEADLINE = 10.0  # seconds for all of it, on both sides
_SIZE = struct.Struct(">I")


class LinkProbe(Value):
    """What a way was found to be worth, from here to there."""

    round_trip_seconds: float  # the median of some
    bytes_per_second: Bytes


async def probe_link(identity: MeshIdentity | Path, worker: WorkerName, host: str, port: int) -> LinkProbe:
    """Measures the way to the gateway of `worker`: reachable, who it says it is, and how good.

    `identity`: this host's, or its folder. Answers within some 25 s at worst, 2 s as a rule. Raises MeshError.
    """
    known = identity if isinstance(identity, MeshIdentity) else MeshIdentity(identity)
    secure = await open_way(known, worker, host, port, Verb.PROBE)
    try:
        async with asyncio.timeout(_DEADLINE):
            return await _measure(secure)
    except TimeoutError as error:
        raise MeshError(f"the check of the way to {worker} took longer than {_DEADLINE:g} s") from error
    except OSError as error:
        raise MeshError(f"the check of the way to {worker} broke off: {error}") from error
    finally:
        secure.abort()


async def _measure(secure: SecureSocket) -> LinkProbe:
    loop = asyncio.get_running_loop()
    taken = []
    for _ in range(ECHOES):
        asked_at = loop.time()
        await secure.write(b"e" + _ECHO)
        if await secure.read_exactly(len(_ECHO)) != _ECHO:
            raise ConnectionError("another echo came than was sent")
        taken.append(loop.time() - asked_at)
    round_trip = statistics.median(taken)
    block, sent, began_at = b"b" + _SIZE.pack(_BLOCK) + bytes(_BLOCK), 0, loop.time()
    while sent < _MOST and loop.time() - began_at < _LONGEST:
        await secure.write(block)
        sent += _BLOCK
    await secure.write(b"s")
    if await secure.read_exactly(1) != b"k":
        raise ConnectionError("no word that all of it came")
    seconds = max(1e-6, loop.time() - began_at - round_trip)
    return LinkProbe(round_trip_seconds=round_trip, bytes_per_second=round(sent / seconds))


async def answer_probe(secure: SecureSocket) -> None:
    """The gateway's side, until the client goes. Raises OSError, TimeoutError."""
    async with asyncio.timeout(_DEADLINE + 1):
        while question := await secure.read(1):
            if question == b"e":
                await secure.write(await secure.read_exactly(len(_ECHO)))
            elif question == b"b":
                left = _SIZE.unpack(await secure.read_exactly(_SIZE.size))[0]
                while left:
                    piece = await secure.read(min(left, _BLOCK))
                    if not piece:
                        raise ConnectionError("it ended within a block")
                    left -= len(piece)
            elif question == b"s":
                await secure.write(b"k")
            else:
                raise ConnectionError(f"{question!r} is no question of a probe")
