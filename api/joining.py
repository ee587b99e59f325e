"""With what a worker may join: the cluster's own join token, or one that an administrator made for one machine."""

from datetime import datetime
from typing import Annotated, NamedTuple

from fastapi import Depends, Request
from sqlmodel import Session

from api.audit import note
from api.deps import ContextDep, WorkerNamePath, bearer_of, shown_as
from api.errors import ProblemError
from stoker.domain.base import WorkerName
from stoker.domain.join_tokens import JoinTokenProblem, TokenRefused
from stoker.secrets import OneTimeToken, one_time_token
from stoker.storage.join_tokens import JoinTokens
from stoker.storage.workers import Workers

_BY_JOIN_TOKEN = shown_as("joinToken", "The cluster's join token, or one that was made for this machine.")
_ANOTHER = "`stoker workers token` makes another"


class ShownToken(NamedTuple):
    """A one-time token that was good when it was looked at: `use` takes it."""

    id: str
    digest: str
    again: bool  # the worker used it before, and its answer was lost

    def use(self, session: Session, now: datetime, worker: WorkerName) -> dict[str, str]:
        """Uses it up for the worker; the labels that go with it.

        Raises ProblemError: another was quicker, or the name is another's. Such a token adds a machine: its holder
        must not become one that is there, with its secrets and its certificates.
        """
        used = JoinTokens(session, now).use(self.id, self.digest, worker)
        if isinstance(used, TokenRefused):
            raise refused(used)
        if not self.again and Workers(session, now).credential_hash(worker) is not None:
            raise ProblemError(
                "worker_name_taken",
                f"there is a worker {worker!r} already, and this join token is for a new one: choose another --name, "
                f"or remove that one first (`stoker workers remove {worker}`)",
            )
        return used.labels


def refused(token: TokenRefused) -> ProblemError:
    """Why a one-time token lets nobody in."""
    status = token.status
    if token.problem is JoinTokenProblem.EXPIRED and status is not None:
        detail = f"this join token expired at {_moment(status.expires_at)}: {_ANOTHER}"
    elif token.problem is JoinTokenProblem.USED:
        by = f" by worker {status.used_by!r} at {_moment(status.used_at)}" if status and status.used_at else ""
        detail = f"this join token was used{by}, and is for one worker only: {_ANOTHER}"
    else:
        detail = f"this join token is not known here: it was removed, or expired long ago. {_ANOTHER}"
    return ProblemError(token.problem.value, detail)


async def _joining(
    name: WorkerNamePath, request: Request, context: ContextDep, _: Annotated[object, _BY_JOIN_TOKEN]
) -> ShownToken | None:
    token = bearer_of(request)
    if token is not None and context.secret.matches(token, context.join_token_digest):
        note.asked_by("", "the cluster's join token")
        return None
    parts = one_time_token(token) if token is not None else None
    if token is None or parts is None:
        raise ProblemError(
            "unauthorized",
            "wrong join token: it is in the file `join-token` of the server's data folder, or made for one machine by "
            "`stoker workers token`",
        )
    if parts.fingerprint != context.authority.fingerprint:
        raise _of_another_cluster(parts, context.authority.fingerprint)
    digest = context.secret.digest(token)
    # Looked at first, since to use it takes the claiming lock: strangers shall not be able to.
    found = await context.read(lambda session, now: JoinTokens(session, now).look(parts.id, digest, name))
    if isinstance(found, TokenRefused):
        raise refused(found)
    note.asked_by("", f"the join token {parts.id}")
    return ShownToken(parts.id, digest, again=found.used_by == name)


def _of_another_cluster(parts: OneTimeToken, ours: str) -> ProblemError:
    return ProblemError(
        JoinTokenProblem.UNKNOWN.value,
        f"this join token is of another cluster: it names the authority {parts.fingerprint}, this one's is {ours}",
    )


def _moment(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


JoiningDep = Annotated[ShownToken | None, Depends(_joining)]
"""None: the cluster's own token."""
