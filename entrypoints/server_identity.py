"""The server's own identity in the mesh: made from the authority that it is, and who is revoked."""

import asyncio
from collections.abc import Callable
from datetime import datetime

import structlog
from sqlalchemy.exc import SQLAlchemyError

from stoker.certificates import SERVER_HOLDER, Authority, CertificateError, IssuedCertificate
from stoker.identity_folder import IdentityFolder
from stoker.storage.certificates import Certificates
from stoker.storage.engine import Database

log = structlog.get_logger()

LOOK_SECONDS = 1.0
"""What was revoked elsewhere counts here within this time."""


class ServerIdentity:
    """Keeps the folder `folder` current, from the rows and the authority."""

    def __init__(
        self, database: Database, authority: Authority, folder: IdentityFolder, clock: Callable[[], datetime]
    ) -> None:
        self._database, self._authority, self._folder, self._clock = database, authority, folder, clock
        self._unkept: IssuedCertificate | None = None  # what the disk did not take

    def refresh(self) -> None:
        """Writes who is revoked, and renews the certificate if it is due. Where that fails, the other was done.

        Raises SQLAlchemyError, OSError, CertificateError.
        """
        now = self._clock()
        with self._database.read() as session:
            revoked = Certificates(session, now).revoked()
        if self._folder.revoke(revoked):
            log.info("revoked_certificates", count=len(revoked))
        self._renew_if_due(now)

    def _renew_if_due(self, now: datetime) -> None:
        facts, renew_at = self._folder.facts(), self._folder.renew_at()
        holds = facts is not None and renew_at is not None and facts.valid_from <= now < renew_at
        is_ours = self._folder.fingerprint() == self._authority.fingerprint
        if not (holds and is_ours):  # also one of a time when the clock was ahead
            issued, self._unkept = self._unkept or self._issued(now), None
            try:
                self._folder.keep(issued.certificate, self._authority.certificate)
            except OSError:
                self._unkept = issued  # for when the disk takes it: each one that is given out is a row
                raise
            log.info("certificate_renewed", serial=issued.serial, expires_at=issued.expires_at.isoformat())

    def _issued(self, now: datetime) -> IssuedCertificate:
        issued = self._authority.issue(self._folder.request(), SERVER_HOLDER, now)
        with self._database.write() as session:
            Certificates(session, now).add(SERVER_HOLDER, issued)
        return issued

    async def run(self) -> None:
        """Refreshes it until cancelled. While the database is away, what was last known holds."""
        stale = False
        while True:
            try:
                await asyncio.to_thread(self.refresh)
                stale = False
            except (SQLAlchemyError, OSError, CertificateError) as error:
                if not stale:  # once: it is tried again each second
                    log.error("identity_not_refreshed", error=str(error))
                stale = True
            except Exception:  # the last guard: with this loop its process ends, and whatever it is answering
                log.exception("identity_refreshing_crashed")
            await asyncio.sleep(LOOK_SECONDS)
