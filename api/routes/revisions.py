"""`/api/v1/deployments/{name}/revisions` and `…/undo`: what was wanted before, and wanting it again."""

from itertools import pairwise

from fastapi import APIRouter, Response

from api.deps import AdminDep, ContextDep, ExpectedGenerationDep
from api.errors import ProblemError, not_found, refusals
from api.routes.deployments import REFUSALS, NamePath, apply_spec, shown
from api.schemas.deployments import DeploymentRead
from api.schemas.rollouts import RevisionRead, RevisionsRead, UndoCreate
from stoker.domain.models import SourceKind
from stoker.domain.revisions import Revision, undone_by
from stoker.storage.deployments import Deployments
from stoker.storage.revisions import Revisions
from workflows.types import Wanted

router = APIRouter(prefix="/deployments", tags=["deployments"])


@router.get("/{name}/revisions", responses=refusals(401, 403, 404, 422, 503))
async def list_revisions(name: NamePath, context: ContextDep, _: AdminDep) -> RevisionsRead:
    """What the deployment was made to be, change by change, the latest first: the last fifty."""
    revisions = await _revisions(context, name)
    return RevisionsRead(data=[RevisionRead.of(one, before) for one, before in pairwise((*revisions, None)) if one])


@router.post("/{name}/undo", responses=REFUSALS)
async def undo_deployment(
    name: NamePath,
    response: Response,
    context: ContextDep,
    caller: AdminDep,
    body: UndoCreate | None = None,
    expected_generation: ExpectedGenerationDep = None,
) -> DeploymentRead:
    """Makes what an earlier revision asked for wanted again, as a new generation that rolls as every change does."""
    revisions = await _revisions(context, name)
    wanted = _chosen(name, revisions, body.generation if body is not None else None)
    await apply_spec(
        context,
        wanted.spec,
        expected_generation=expected_generation or revisions[0].generation,
        by=caller.name,
        reason=f"generation {wanted.generation} again",
        known=await _known(context, wanted),
    )
    return await shown(context, name, response)


async def _revisions(context: ContextDep, name: str) -> tuple[Revision, ...]:
    """The latest first; at least one. Raises ProblemError where there is no such deployment."""
    found = await context.read(
        lambda session, now: (Deployments(session, now).get(name), Revisions(session, now).of(name))
    )
    if found[0] is None:
        raise not_found("deployment", name)
    return found[1]


async def _known(context: ContextDep, revision: Revision) -> Wanted | None:
    """The very files that a hub's model was made of then. Those on workers' disks are looked for anew."""
    found = await context.read(
        lambda session, now: Revisions(session, now).model(revision.deployment, revision.generation)
    )
    if found is None or revision.spec.model.kind is not SourceKind.HUB:
        return None
    files, profile = found
    return Wanted(spec=revision.spec, profile=profile, files=files)


def _chosen(name: str, revisions: tuple[Revision, ...], generation: int | None) -> Revision:
    if generation is None:
        if (chosen := undone_by(revisions)) is None:
            raise ProblemError("nothing_to_undo", f"{name} has no earlier revision that ran and differs")
        return chosen
    for one in revisions:
        if one.generation == generation:
            return one
    known = ", ".join(str(one.generation) for one in reversed(revisions))
    raise ProblemError("not_found", f"{name} has no revision of generation {generation}; there are {known}")
