"""The worker's identity in the mesh: gets its certificate, renews it, and keeps who is revoked.

A certificate lives for 24 hours and is renewed at half of that, so that the API may be away for half a day. It is asked
for at once where there is none to use: no file, a damaged or expired one, one of another authority. What is there is
looked at every few seconds, and nothing is remembered of it. One that does not hold yet is asked for again too: this
host's clock is behind, or the server's was ahead.
"""

import asyncio
import random
from collections.abc import Callable, Collection
from datetime import UTC, datetime

import structlog

from stoker.certificates import CertificateError, fingerprint_of
from stoker.domain.reports import CertificateAnswer
from stoker.identity_folder import IdentityFolder
from worker_agent.control_api import CertificateRefusedError, ControlApi, NotJoinedError, ServerAwayError

log = structlog.get_logger()

LOOK_SECONDS = 5.0
"""How often the folder is looked at."""

RETRY_SECONDS = 1.0
MOST_RETRY_SECONDS = 60.0
"""The pause after a failure doubles from the one to the other."""

CLOCK_SECONDS = 1800.0
"""The pause after a certificate that does not hold now by this host's clock. The server gives out so many a day."""


class AuthorityDiffersError(Exception):
    """The server's authority is not the cluster's that this worker knows."""


def _now() -> datetime:
    return datetime.now(UTC)


class CertificateKeeper:
    """One worker's.

    `expected` gives the fingerprint of the only authority to trust, where a join token or a server on the same machine
    names one. Else that of the first certificate is kept, and trusted from then on.
    """

    def __init__(
        self,
        api: ControlApi,
        folder: IdentityFolder,
        expected: Callable[[], str | None] = lambda: None,
        clock: Callable[[], datetime] = _now,
    ) -> None:
        self._api, self._folder, self._expected, self._clock = api, folder, expected, clock
        self._unkept: CertificateAnswer | None = None  # what the disk did not take

    async def run(self) -> None:
        """Keeps a certificate that can be used, until cancelled."""
        pause = RETRY_SECONDS
        while True:
            try:
                is_well = await self.renew_if_due()
            except (ServerAwayError, NotJoinedError) as error:  # to join again is the heartbeat's
                log.warning("certificate_not_renewed", reason=str(error), retry_in_seconds=pause)
            except (CertificateRefusedError, CertificateError, AuthorityDiffersError, OSError) as error:
                log.error("certificate_not_renewed", reason=str(error), retry_in_seconds=pause)
            else:
                pause = RETRY_SECONDS
                await asyncio.sleep(LOOK_SECONDS if is_well else CLOCK_SECONDS)
                continue
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - workers shall not ask all at once
            pause = min(MOST_RETRY_SECONDS, pause * 2)

    async def renew_if_due(self) -> bool:
        """Asks for a certificate if one is needed; whether the one that is there now needs no renewal.

        Raises ServerAwayError, NotJoinedError, CertificateRefusedError, CertificateError, AuthorityDiffersError,
        OSError.
        """
        if not await asyncio.to_thread(self._is_due):
            return True
        answer = self._unkept or await self._api.certificate(await asyncio.to_thread(self._folder.request))
        self._unkept = None
        given = fingerprint_of(answer.authority)
        known = await asyncio.to_thread(self._known)
        if known is not None and given != known:
            raise AuthorityDiffersError(
                f"the server's authority is {given}, and the cluster's that this worker joined is {known}: is it "
                f"another server? If the cluster was made anew, remove the folder {self._folder.path}"
            )
        try:
            facts = await asyncio.to_thread(self._folder.keep, answer.certificate, answer.authority)
        except OSError:
            self._unkept = answer  # for when the disk takes it: the server gives out only so many
            raise
        log.info("certificate_renewed", serial=facts.serial, expires_at=facts.expires_at.isoformat())
        if not await asyncio.to_thread(self._is_due):
            return True
        log.error("clock_differs", own=self._clock().isoformat(), servers=facts.valid_from.isoformat())
        return False

    async def take_revoked(self, serials: Collection[str]) -> None:
        """Keeps whose certificates hold no more, as the server says."""
        try:
            if await asyncio.to_thread(self._folder.revoke, serials):
                log.info("revoked_certificates", count=len(serials))
        except OSError as error:  # a full disk, say: the next report's answer says it again
            log.error("revoked_not_kept", error=str(error))

    def _is_due(self) -> bool:
        facts = self._folder.facts()
        renew_at = self._folder.renew_at()
        if facts is None or renew_at is None or not facts.valid_from <= self._clock() < renew_at:
            return True
        expected = self._expected()
        return expected is not None and expected != self._folder.fingerprint()

    def _known(self) -> str | None:
        return self._expected() or self._folder.fingerprint()
