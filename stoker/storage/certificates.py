"""Certificates that the cluster's authority gave out.

They are kept beyond their end: a connection that was made with one outlives it, and is cut when its holder is revoked.
"""

from datetime import datetime, timedelta

from sqlalchemy import delete, func, or_, update
from sqlmodel import Session, col, select

from stoker.certificates import IssuedCertificate
from stoker.storage.tables import CertificateRow

KEPT = timedelta(days=400)
"""How long after its end a certificate can be revoked: longer than any connection lasts."""

TOLD = timedelta(hours=24)
"""How long at least everybody is told of a revocation."""


class Certificates:
    """The certificates' repository within one session."""

    def __init__(self, session: Session, now: datetime) -> None:
        self._session, self._now = session, now

    def add(self, holder: str, issued: IssuedCertificate) -> None:
        """Keeps that `holder` ("worker/w1", "server") was given a certificate. Long expired ones are forgotten."""
        self._session.execute(delete(CertificateRow).where(col(CertificateRow.expires_at) <= self._now - KEPT))
        self._session.add(CertificateRow(serial=issued.serial, holder=holder, expires_at=issued.expires_at))
        self._session.flush()

    def living(self, holder: str) -> int:
        """How many certificates the holder has that are neither expired nor revoked."""
        query = (
            select(func.count())
            .select_from(CertificateRow)
            .where(
                CertificateRow.holder == holder,
                col(CertificateRow.expires_at) > self._now,
                col(CertificateRow.revoked_at).is_(None),
            )
        )
        return self._session.exec(query).one()

    def revoke(self, holder: str) -> int:
        """Revokes all certificates of the holder for good; how many held until now, expired ones not counted."""
        query = (
            update(CertificateRow)
            .where(
                col(CertificateRow.holder) == holder,
                col(CertificateRow.revoked_at).is_(None),
            )
            .values(revoked_at=self._now)
            .execution_options(synchronize_session=False)
        )
        held = self.living(holder)
        self._session.execute(query)
        return held

    def revoked(self) -> tuple[str, ...]:
        """Serials of those that were revoked, in order: what nobody may trust. Expired ones go after a time."""
        query = (
            select(CertificateRow.serial)
            .where(
                col(CertificateRow.revoked_at).is_not(None),
                or_(
                    col(CertificateRow.expires_at) > self._now,
                    col(CertificateRow.revoked_at) > self._now - TOLD,
                ),
            )
            .order_by(CertificateRow.serial)
        )
        return tuple(self._session.exec(query))
