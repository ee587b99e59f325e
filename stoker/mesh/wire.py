"""What a client and a gateway say to each other, once each knows who the other is. Pure.

client   "open main/chat-x1.3\\n"    then bytes both ways, to the service's own port
         "hold rpc/chat-x1.3\\n"     then one byte a second, both ways: the link lives
         "probe -\\n"                then questions, see `worker_agent.mesh.probe`
gateway  "+\\n", or "-<reason>\\n" and the end
"""

import re
from enum import StrEnum

from stoker.domain.base import DNS_LABEL_PATTERN, InstanceId, Value, WorkerName

MAX_LINE = 300  # bytes, with its end
HANDSHAKE_SECONDS = 5.0
"""What TLS may take, and what the first line may take after it."""

HEARTBEAT = b"."
HEARTBEAT_SECONDS = 1.0
SILENCE_SECONDS = 5.0
"""So long a held link may be silent: then it is lost. Both sides count."""

OPENED = b"+\n"
NOT_GRANTED = "no such service for you"
"""To everybody who may not reach a service, also where there is none: nobody learns what runs here."""

SERVER = "server"
ANY_WORKER = "worker/*"
AGENT_SERVICE = "agent"  # the agent's own listener: logs
FILES_SERVICE = "files"  # the models' files, for other workers

_LABEL = DNS_LABEL_PATTERN.removeprefix("^").removesuffix("$").replace("(", "(?:")
_SERVICE = re.compile(rf"(?:{AGENT_SERVICE}|{FILES_SERVICE}|(?:rpc|main)/{_LABEL}\.[0-9]{{1,9}})")
_PEER = re.compile(rf"(?:{SERVER}|worker/(?:\*|{_LABEL}))")


class Verb(StrEnum):
    """What a client wants of a gateway."""

    OPEN = "open"
    HOLD = "hold"
    PROBE = "probe"


class Request(Value):
    """The line that a client sends first."""

    verb: Verb
    service: str  # empty: of a probe


def rpc_service(instance_id: InstanceId, incarnation: int) -> str:
    """The name under which the RPC server of one incarnation is reached."""
    return f"rpc/{instance_id}.{incarnation}"


def main_service(instance_id: InstanceId, incarnation: int) -> str:
    """The name under which the main server of one incarnation is reached."""
    return f"main/{instance_id}.{incarnation}"


def worker_holder(name: WorkerName) -> str:
    """What a worker is called in its certificate, and in grants."""
    return f"worker/{name}"


def is_service(name: str) -> bool:
    """Whether `name` is written like a service."""
    return _SERVICE.fullmatch(name) is not None


def is_peer(name: str) -> bool:
    """Whether `name` is written like those to whom services are granted."""
    return _PEER.fullmatch(name) is not None


def request_line(verb: Verb, service: str = "-") -> bytes:
    """The line that asks for a service. Raises ValueError for a name that is none."""
    if service != "-" and not is_service(service):
        raise ValueError(f"{service!r} is no service: agent, files, rpc/<instance>.<n> or main/<instance>.<n>")
    return f"{verb} {service}\n".encode()


def parse_request(line: bytes) -> Request | None:
    """What a line asks for; None: it is no such line."""
    if len(line) > MAX_LINE or not line.isascii() or not line.endswith(b"\n"):
        return None
    verb, space, service = line[:-1].decode().partition(" ")
    if not space or verb not in list(Verb):
        return None
    if verb == Verb.PROBE:
        return Request(verb=Verb.PROBE, service="") if service == "-" else None
    if not is_service(service) or (verb == Verb.HOLD and not service.startswith("rpc/")):
        return None
    return Request(verb=Verb(verb), service=service)


def refusal_line(reason: str) -> bytes:
    """The answer of a gateway that does not do what was asked."""
    return f"-{reason}\n".encode("ascii", "replace")[: MAX_LINE - 1].rstrip(b"\n") + b"\n"


def refusal_in(line: bytes) -> str | None:
    """Why a gateway refused, by its answer; None: it did not. A line that is no answer is a refusal too."""
    if line == OPENED:
        return None
    if line.startswith(b"-") and line.endswith(b"\n"):
        return line[1:-1].decode("ascii", "replace") or "it did not say why"
    return "it gave no answer" if not line else "its answer is none that is known"
