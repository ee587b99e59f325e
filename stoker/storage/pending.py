"""Those who wait for room. What they ask for is parsed once and kept in memory: it is long, and seldom changes."""

from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import select
from sqlmodel import Session

from stoker.domain.base import InstanceId
from stoker.domain.deployments import InstanceState
from stoker.domain.placement.reservations import Waiting
from stoker.domain.placement.types import PlacementRequest
from stoker.storage.tables import DeploymentRow, InstanceRow, table_of

_INSTANCES, _DEPLOYMENTS = table_of(InstanceRow).c, table_of(DeploymentRow).c
_AT_ONCE = 500  # requests read with one question
_SPARE = 1000  # so many more than were last asked for are kept


class _Key(NamedTuple):
    """Names one request: the row's digest of it changes whenever it does."""

    instance_id: InstanceId
    digest: str


class PendingRequests:
    """The memory of what those who wait ask for. One thread at a time."""

    def __init__(self) -> None:
        self._requests: dict[_Key, PlacementRequest] = {}

    def waiting(self, session: Session, now: datetime, *, since: datetime | None = None) -> tuple[Waiting, ...]:
        """Those who wait, the oldest first; those only who began to at `since` or before, if it is given.

        The priority is the deployment's of today: it may have changed since the instance began to wait.
        """
        query = (
            select(
                _INSTANCES.id,
                _INSTANCES.request_digest,
                _INSTANCES.pending_since,
                _DEPLOYMENTS.priority,
            )
            .select_from(table_of(InstanceRow))
            .join(table_of(DeploymentRow), _DEPLOYMENTS.name == _INSTANCES.deployment, isouter=True)
            .where(_INSTANCES.state == InstanceState.PENDING.value)
            .order_by(_INSTANCES.pending_since, _INSTANCES.id)
        )
        if since is not None:
            query = query.where(_INSTANCES.pending_since <= since)
        found = [(_Key(name, digest), at, priority) for name, digest, at, priority in session.execute(query)]
        known = self._known(session, [key for key, _, _ in found])
        return tuple(
            Waiting(
                request=request,
                priority=request.spec.priority if priority is None else priority,
                waited_seconds=(now - (at or now)).total_seconds(),
            )
            for key, at, priority in found
            if (request := known.get(key)) is not None
        )

    def _known(self, session: Session, keys: list[_Key]) -> dict[_Key, PlacementRequest]:
        missing = [key for key in keys if key not in self._requests]
        for first in range(0, len(missing), _AT_ONCE):
            self._remember(_read(session, missing[first : first + _AT_ONCE]))
        known = {key: request for key in keys if (request := self._requests.get(key)) is not None}
        if len(self._requests) > len(known) + _SPARE:
            self._requests = dict(known)
        return known

    def _remember(self, requests: Iterable[tuple[_Key, PlacementRequest]]) -> None:
        """Replicas of one deployment share one profile in memory: it is by far the largest part of a request."""
        profiles = {_origin(request): request.profile for request in self._requests.values()}
        for key, request in requests:
            profile = profiles.setdefault(_origin(request), request.profile)
            if profile is not request.profile and profile == request.profile:
                request = request.model_copy(update={"profile": profile})
            self._requests[key] = request


def _origin(request: PlacementRequest) -> tuple[str, int]:
    return request.spec.name, request.generation


def _read(session: Session, keys: list[_Key]) -> list[tuple[_Key, PlacementRequest]]:
    query = select(_INSTANCES.id, _INSTANCES.request_digest, _INSTANCES.request).where(
        _INSTANCES.id.in_([key.instance_id for key in keys])
    )
    return [
        (_Key(name, digest), PlacementRequest.model_validate(content))
        for name, digest, content in session.execute(query)
        if content
    ]
