"""The folder in which one member of the mesh keeps its identity: key, certificate, authority, and who is revoked.

    key.pem          the private key (0600), made once
    certificate.pem  for that key; replaced at every renewal
    authority.pem    the cluster's
    revoked.json     serials of the certificates that hold no more: a JSON list

Each file is replaced as a whole, so that other processes may read them at any time. The key stays the same from renewal
to renewal: whoever reads key and certificate finds a pair.
"""

import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from stoker.certificates import (
    CertificateError,
    CertificateFacts,
    check_issued,
    fingerprint_of,
    new_key_and_request,
    request_for,
)
from stoker.private_files import write_private

KEY_FILE, CERTIFICATE_FILE, AUTHORITY_FILE, REVOKED_FILE = (
    "key.pem",
    "certificate.pem",
    "authority.pem",
    "revoked.json",
)


class IdentityFolder:
    """One holder's ("worker/w1", "server") folder. Methods raise OSError where it cannot be read or written."""

    def __init__(self, folder: Path, holder: str) -> None:
        self.path, self.holder = folder, holder

    def facts(self) -> CertificateFacts | None:
        """What the certificate says, if all three files are there and belong together; else None."""
        certificate, authority, key = (self._read(name) for name in (CERTIFICATE_FILE, AUTHORITY_FILE, KEY_FILE))
        try:
            return check_issued(certificate, authority_pem=authority, key_pem=key, holder=self.holder)
        except CertificateError:
            return None

    def renew_at(self) -> datetime | None:
        """When another certificate is to be asked for: at half of its life. None: at once, there is none to use."""
        facts = self.facts()
        return facts.valid_from + (facts.expires_at - facts.valid_from) / 2 if facts is not None else None

    def fingerprint(self) -> str | None:
        """Of the authority that is kept; None where there is none, or it cannot be read."""
        try:
            return fingerprint_of(self._read(AUTHORITY_FILE))
        except CertificateError:
            return None

    def request(self) -> str:
        """A request (PEM) for a certificate for the key here, which is made if there is none to use."""
        with self._alone():
            try:
                return request_for(self._read(KEY_FILE), self.holder)
            except CertificateError:  # there is none, or a damaged one, which no certificate helps
                key, request = new_key_and_request(self.holder)
                write_private(self.path / KEY_FILE, key)
                return request

    def keep(self, certificate: str, authority: str) -> CertificateFacts:
        """Keeps what the authority gave. Raises CertificateError when it is none for this holder and this key."""
        facts = check_issued(certificate, authority_pem=authority, key_pem=self._read(KEY_FILE), holder=self.holder)
        if self._read(AUTHORITY_FILE) != authority:
            write_private(self.path / AUTHORITY_FILE, authority)
        write_private(self.path / CERTIFICATE_FILE, certificate)
        return facts

    def revoke(self, serials: Iterable[str]) -> bool:
        """Keeps who is revoked now; whether that is another list than before. An unchanged one is not written."""
        wanted = json.dumps(sorted(set(serials)))
        if self._read(REVOKED_FILE) == wanted:
            return False
        write_private(self.path / REVOKED_FILE, wanted)
        return True

    def forget(self) -> None:
        """Removes the identity. Who is revoked stays known."""
        for name in (CERTIFICATE_FILE, KEY_FILE, AUTHORITY_FILE):
            (self.path / name).unlink(missing_ok=True)

    def _read(self, name: str) -> str:
        """The file's text; empty where there is none, or it is no text."""
        try:
            return (self.path / name).read_text()
        except (FileNotFoundError, UnicodeDecodeError):
            return ""

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keeps other processes from making the key meanwhile. The lock is on the folder; it ends with its holder."""
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)
