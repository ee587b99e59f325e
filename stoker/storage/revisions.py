"""Revisions of deployments: written with the deployment's row, in one transaction."""

from datetime import datetime

from sqlalchemy.orm import defer
from sqlmodel import Session, col, delete, select, update

from stoker.domain.base import DeploymentName
from stoker.domain.deployments import DeploymentSpec
from stoker.domain.gguf import ModelProfile
from stoker.domain.models import ModelFiles
from stoker.domain.revisions import KEPT_REVISIONS, Revision, RevisionState
from stoker.domain.statuses import DeploymentProjection
from stoker.storage.tables import DeploymentRevisionRow as Row

_WITHOUT_MODEL = (defer(Row.profile), defer(Row.files))  # type: ignore[arg-type]  # large, and of one of them at a time


class Revisions:
    """The revisions' repository within one session."""

    def __init__(self, session: Session, now: datetime) -> None:
        self._session, self._now = session, now

    def put(self, projection: DeploymentProjection) -> None:
        """Inserts the revision of a new generation. One that is known, or older than what is known, changes nothing."""
        name, generation = projection.spec.name, projection.generation
        known = self._rows(name)
        if known and generation <= known[0].generation:
            return
        for row in known:
            if row.state == RevisionState.CURRENT:
                row.state = RevisionState.SUPERSEDED.value
        self._give_up(known, projection)
        self._session.add(
            Row(
                deployment=name,
                generation=generation,
                instances_generation=projection.instances_generation,
                spec=projection.spec.model_dump(mode="json"),
                profile=projection.profile.model_dump(mode="json"),
                files=projection.files.model_dump(mode="json"),
                state=RevisionState.CURRENT.value,
                ran=any(row.ran for row in known if row.instances_generation == projection.instances_generation),
                by=projection.by,
                reason=projection.reason,
                created_at=self._now,
            )
        )
        for row in known[KEPT_REVISIONS - 1 :]:
            self._session.delete(row)

    def note_ran(self, name: DeploymentName, instances_generation: int) -> None:
        """An instance of that generation runs: so have all revisions that it answers."""
        self._session.execute(
            update(Row)
            .where(
                col(Row.deployment) == name,
                col(Row.instances_generation) == instances_generation,
                col(Row.ran).is_(False),
            )
            .values(ran=True)
        )

    def remove_of(self, name: DeploymentName) -> None:
        """Removes all of one deployment."""
        self._session.execute(delete(Row).where(col(Row.deployment) == name))

    def of(self, name: DeploymentName) -> tuple[Revision, ...]:
        """Those of one deployment, the latest first."""
        return tuple(_revision(row) for row in self._rows(name))

    def model(self, name: DeploymentName, generation: int) -> tuple[ModelFiles, ModelProfile] | None:
        """What was read of the revision's model, or None where there is no such revision."""
        row = self._session.get(Row, (name, generation))
        return None if row is None else (ModelFiles.model_validate(row.files), ModelProfile.model_validate(row.profile))

    def _rows(self, name: DeploymentName) -> list[Row]:
        query = select(Row).where(Row.deployment == name).order_by(col(Row.generation).desc()).options(*_WITHOUT_MODEL)
        return list(self._session.exec(query))

    def _give_up(self, known: list[Row], projection: DeploymentProjection) -> None:
        """Marks the generation that was rolled back, and those before it that the same instances were to answer."""
        given_up = projection.rolled_back
        failed = [row for row in known if given_up is not None and row.generation == given_up.generation]
        if given_up is None or not failed:
            return
        for row in known:
            if row.instances_generation == failed[0].instances_generation:
                row.state, row.reason = RevisionState.ROLLED_BACK.value, given_up.reason


def _revision(row: Row) -> Revision:
    return Revision(
        deployment=row.deployment,
        generation=row.generation,
        instances_generation=row.instances_generation,
        spec=DeploymentSpec.model_validate(row.spec),
        state=RevisionState(row.state),
        ran=row.ran,
        by=row.by,
        reason=row.reason,
        created_at=row.created_at,
    )
