"""`/api/v1/workers/{name}/certificate`: for agents, the identity with which a worker meets the others."""

from datetime import datetime

import structlog
from fastapi import APIRouter
from sqlmodel import Session

from api.deps import ContextDep, ReportingWorkerDep
from api.errors import FieldError, ProblemError, refusals
from stoker.certificates import CertificateError, IssuedCertificate, worker_holder
from stoker.domain.reports import CertificateAnswer, CertificateRequest
from stoker.storage.certificates import Certificates
from stoker.storage.workers import Workers

log = structlog.get_logger()
router = APIRouter(prefix="/workers", tags=["workers"])

MOST_LIVING = 64
"""Certificates that one worker may have at once: an agent that renews as it should has two or three."""


@router.post("/{name}/certificate", responses=refusals(401, 403, 404, 413, 422, 429, 503))
async def certify_worker(name: ReportingWorkerDep, body: CertificateRequest, context: ContextDep) -> CertificateAnswer:
    """For agents: a certificate of the worker's identity, for 24 hours, and that of the authority.

    Of the request only its key counts (EC P-256), and that it is signed with it: who it is for is who asks.
    """
    holder = worker_holder(name)

    def issue(session: Session, now: datetime) -> IssuedCertificate | None:
        if not Workers(session, now).hold(name):
            return None
        certificates = Certificates(session, now)
        if certificates.living(holder) >= MOST_LIVING:
            raise ProblemError(
                "too_many_certificates",
                f"worker {name!r} has {MOST_LIVING} certificates that have not expired: its agent asks too often",
            )
        issued = context.authority.issue(body.request, holder, now)
        certificates.add(holder, issued)
        return issued

    try:
        issued = await context.write(issue)
    except CertificateError as error:
        problem = FieldError(field="request", message=str(error))
        raise ProblemError("invalid_request", f"request: {error}", errors=[problem]) from error
    if issued is None:  # at this very moment
        raise ProblemError("worker_removed", f"worker {name!r} was removed from this cluster")
    log.info("certificate_issued", worker=name, serial=issued.serial, expires_at=issued.expires_at.isoformat())
    return CertificateAnswer(certificate=issued.certificate, authority=context.authority.certificate)
