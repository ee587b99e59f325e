"""Who one is in the mesh: TLS contexts from a folder with a key and a certificate, and who the other side is.

The folder is written by others (see `stoker.identity_folder`), and may change at any time: whoever asks gets what
lies there now, and where that cannot be read, or does not fit together yet, what lay there before.
"""

import json
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

log = structlog.get_logger()

_URI = "stoker://"
_FILES = ("key.pem", "certificate.pem", "authority.pem")
_LOOK_SECONDS = 0.5  # between two looks at the folder, however many connections are made
_Stamp = tuple[tuple[int, int, int], ...]


class MeshError(Exception):
    """The way to a service of another host could not be taken; the message says where it ended, and why."""


class NoIdentityError(MeshError):
    """There is no key and certificate to show."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end, by its certificate."""

    holder: str  # "server" or "worker/<name>"
    serial: str  # of the certificate: hexadecimal, lower case, no leading zeros


class MeshIdentity:
    """The identity in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stamp: _Stamp | None = None
        self._revoked_stamp: tuple[int, int, int] | None = None
        self._revoked: frozenset[str] = frozenset()
        self._contexts: tuple[ssl.SSLContext, ssl.SSLContext] | None = None
        self._looked_at = float("-inf")
        self._complaint = ""

    def for_gateway(self) -> ssl.SSLContext:
        """For the side that is connected to. Raises NoIdentityError."""
        return self._current()[0]

    def for_client(self) -> ssl.SSLContext:
        """For the side that connects. Raises NoIdentityError."""
        return self._current()[1]

    @property
    def revoked(self) -> frozenset[str]:
        """Serials of the certificates that hold no more; the same object as before if nothing changed."""
        self.refresh()
        return self._revoked

    def refuses(self, peer: Peer) -> bool:
        """Whether the peer's certificate was revoked."""
        self.refresh()
        return peer.serial in self._revoked

    def refresh(self, *, at_once: bool = False) -> None:
        """Looks at the folder, if the last look is some time ago."""
        now = time.monotonic()
        if not at_once and now - self._looked_at < _LOOK_SECONDS:
            return
        self._looked_at = now
        try:
            self._refresh_revoked()
            self._refresh_contexts()
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            if str(error) != self._complaint:
                self._complaint = str(error)
                log.warning("mesh_identity_unreadable", folder=str(self.folder), error=self._complaint)
        else:
            self._complaint = ""

    def _current(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        self.refresh(at_once=self._contexts is None)
        if self._contexts is None:
            raise NoIdentityError(f"there is no certificate in {self.folder}: it comes when the worker has joined")
        return self._contexts

    def _refresh_contexts(self) -> None:
        try:
            stamp = tuple(_stamp(self.folder / name) for name in _FILES)
        except FileNotFoundError:
            return
        if stamp == self._stamp:
            return
        self._contexts = (self._context(ssl.PROTOCOL_TLS_SERVER), self._context(ssl.PROTOCOL_TLS_CLIENT))
        self._stamp = stamp

    def _context(self, protocol: int) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False  # names of hosts say nothing: who it is stands in the certificate's URI
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cafile=self.folder / "authority.pem")
        context.load_cert_chain(self.folder / "certificate.pem", self.folder / "key.pem")
        if protocol == ssl.PROTOCOL_TLS_SERVER:
            context.num_tickets = 0  # a resumed session would not show its certificate again
        return context

    def _refresh_revoked(self) -> None:
        path = self.folder / "revoked.json"
        try:
            stamp = _stamp(path)
        except FileNotFoundError:
            return
        if stamp == self._revoked_stamp:
            return
        serials = json.loads(path.read_bytes())
        if not isinstance(serials, list) or not all(isinstance(one, str) for one in serials):
            raise ValueError("revoked.json must be a list of serials")
        self._revoked, self._revoked_stamp = frozenset(serials), stamp


def peer_of(connection: ssl.SSLObject | ssl.SSLSocket) -> Peer | None:
    """Who the other side is, by a certificate that TLS has verified; None: it names nobody of the mesh."""
    shown: dict[str, Any] = connection.getpeercert() or {}
    names, serial = shown.get("subjectAltName", ()), shown.get("serialNumber", "")
    if len(names) != 1 or names[0][0] != "URI" or not names[0][1].startswith(_URI) or not serial:
        return None
    return Peer(holder=names[0][1].removeprefix(_URI), serial=format(int(serial, 16), "x"))


def _stamp(path: Path) -> tuple[int, int, int]:
    seen = path.stat()
    return seen.st_mtime_ns, seen.st_size, seen.st_ino
