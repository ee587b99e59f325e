"""TCP as the mesh uses it: small messages at once, and dead hosts noticed."""

import contextlib
import ipaddress
import socket
import struct

_KEEPALIVE = {"TCP_KEEPIDLE": 2, "TCP_KEEPINTVL": 1, "TCP_KEEPCNT": 4, "TCP_KEEPALIVE": 2}  # seconds; how many unheard
_ABORT = struct.pack("ii", 1, 0)  # SO_LINGER: on, 0 s

NO_ADDRESS = (OSError, UnicodeError, OverflowError)
"""What connecting raises; the last two where the other host's name or port, which it tells itself, is none."""


def why(error: Exception) -> str:
    """What an error of NO_ADDRESS says, briefly; empty where it says nothing."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def tune(connection: socket.socket) -> None:
    """No waiting for more to send, and an end of connections whose other host no longer answers.

    TCP_USER_TIMEOUT is not set here: it would also end a connection whose receiver reads nothing for that long. An
    RPC server that computes does just that.
    """
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        if (number := getattr(socket, name, None)) is not None:
            connection.setsockopt(socket.IPPROTO_TCP, number, value)


def limit_silence(connection: socket.socket, seconds: float) -> None:
    """Ends a connection where nobody confirms for `seconds` what was sent, on systems that can."""
    if (number := getattr(socket, "TCP_USER_TIMEOUT", None)) is not None:
        connection.setsockopt(socket.IPPROTO_TCP, number, round(seconds * 1000))


def abort(connection: socket.socket) -> None:
    """Closes with a reset: the other side shall not take what it has for the whole."""
    with contextlib.suppress(OSError):  # it is closed already
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
    connection.close()


def is_loopback(host: str) -> bool:
    """Whether a host's address leads to the machine itself, and nowhere else. Names other than localhost do not."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
