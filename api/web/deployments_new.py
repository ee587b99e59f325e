"""The form of a deployment, and what would come of it while it is being filled: to make one, or to change one."""

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from fastapi import Request, Response
from sqlmodel import Session

from api.deps import ApiContext, ContextDep
from api.errors import ProblemError
from api.routes.deployments import NamePath, create_deployment, update_deployment
from api.schemas.deployments import DeploymentCreate, DeploymentRead
from api.schemas.devices import parse_device
from api.schemas.rollouts import FieldChangeRead
from api.web import deployments_view as view
from api.web.deployments import expected_generation, one_deployment
from api.web.deployments_form import FIELDS, change_of, empty_form, faults_by_field, form_of, read_deployment
from api.web.deployments_preview import FieldChange, Preview, changes_in_words, preview, replaces_instances
from api.web.forms import FormDep
from api.web.placement_view import WORDS
from api.web.rendering import problem_status, redirect, render
from api.web.route import page_router
from api.web.session import AdminPageDep
from stoker.domain.deployments import CacheType, Strategy
from stoker.storage.deployments import Deployments
from stoker.storage.files import Files
from stoker.storage.workers import Workers

router = page_router()

_UNNAMED = "unnamed"  # a deployment is previewed before it has a name
_MOST_NAMED = 8  # devices that the form's hint names


_FOLDED = {
    "by-hand": ("gpu_layers", "tensor_split", "min_compute_capability", "overcommit"),
    "engine": ("cache_type_v", "batch", "micro_batch", "threads", "flash_attention", "kv_unified", "embeddings"),
}
"""Parts of the form that few need, and their fields. They are open where a field is not at its default, or wrong."""


class _Known(NamedTuple):
    """What the form offers to choose from."""

    models: list[str]  # sources of what lies on disks, or is deployed
    devices: list[str]  # as WORKER:KIND:INDEX


@router.get("/deployments/-/new")
async def show_form(request: Request, context: ContextDep, _: AdminPageDep) -> Response:
    """An empty form; fields may be filled by the address: `?model=hf:ORG/REPO`."""
    asked = {name: value for name, value in request.query_params.items() if name in FIELDS}
    return await _shown(request, context, empty_form() | asked)


@router.post("/deployments/-/new")
async def make_deployment(request: Request, context: ContextDep, visitor: AdminPageDep, form: FormDep) -> Response:
    """Makes what the form says; a name that is taken is refused, for whoever fills a new form means a new one."""
    texts = form.values()
    body, faults = read_deployment(texts)
    if body is not None and await _exists(context, body.name):
        faults = {"name": _taken(body.name)}
    if body is None or faults:
        return await _shown(request, context, texts, faults=faults, status=422)
    try:
        await create_deployment(body, Response(), context, visitor.key)
    except ProblemError as problem:
        return await _shown(request, context, texts, problem=problem)
    return redirect(request, f"/deployments/{body.name}", f"deploying {body.name}")


@router.get("/deployments/{name}/edit")
async def show_filled_form(request: Request, name: NamePath, context: ContextDep, visitor: AdminPageDep) -> Response:
    """The form, filled with what is deployed."""
    read = await one_deployment(context, visitor, name)
    texts = form_of(_written(read))
    return await _shown(request, context, texts, name=name, generation=read.generation)


@router.post("/deployments/{name}/edit")
async def edit_deployment(
    request: Request, name: NamePath, context: ContextDep, visitor: AdminPageDep, form: FormDep
) -> Response:
    """Changes it to what the form says, unless somebody else has changed it since."""
    texts, generation = form.values() | {"name": name}, expected_generation(form)
    body, faults = read_deployment(texts)
    if body is None:
        return await _shown(request, context, texts, faults=faults, status=422, name=name, generation=generation)
    try:
        await update_deployment(name, change_of(body), Response(), context, visitor.key, generation)
    except ProblemError as problem:
        return await _shown(request, context, texts, problem=problem, name=name, generation=generation)
    return redirect(request, f"/deployments/{name}", f"changed {name}")


@router.post("/deployments/-/preview")
async def show_preview(request: Request, context: ContextDep, visitor: AdminPageDep, form: FormDep) -> Response:
    """What would come of the form as it is now, and what is wrong with it; nothing is made."""
    texts, editing = form.values(), form.get("editing")
    body, faults = read_deployment({**texts, "name": editing or texts.get("name") or _UNNAMED})
    faults = {field: fault for field, fault in faults.items() if texts.get(field) or field not in ("name", "model")}
    if body is None and set(faults) == {"name"}:  # a name that is wrong does not keep anybody from seeing the rest
        body, _ = read_deployment({**texts, "name": _UNNAMED})
    found: Preview | None = None
    changes: list[FieldChange] = []
    replaced = False
    if body is not None and editing:
        before = _written(await one_deployment(context, visitor, editing))
        body = change_of(body).merged(before.spec())
        changes = changes_in_words(FieldChangeRead.between(before.spec(), body.spec()))
        replaced = replaces_instances(before.spec(), body.spec())
    elif body is not None and await _exists(context, body.name):
        faults["name"] = _taken(body.name)
    if body is not None:
        try:
            found = await preview(context, body)
        except ProblemError as problem:
            faults |= _faults_of(problem)
    return render(
        request,
        "deployments_preview.html",
        found=found,
        faults=faults,
        changes=changes,
        replaced=replaced,
        editing=editing,
        body=body,
        view=view,
        words=WORDS,
        fields=FIELDS,
    )


async def _shown(
    request: Request,
    context: ApiContext,
    texts: Mapping[str, str],
    *,
    faults: Mapping[str, str] | None = None,
    problem: ProblemError | None = None,
    status: int = 200,
    name: str = "",
    generation: int | None = None,
) -> Response:
    """The form with these texts. `name`: of the deployment that it changes; empty: it makes one."""
    if problem is not None:
        faults, status = _faults_of(problem), problem_status(problem)
    faults, usual = faults or {}, empty_form()
    touched = {field for field, text in texts.items() if text != usual.get(field, "")} | faults.keys()
    return render(
        request,
        "deployments_form.html",
        status=status,
        texts=dict.fromkeys(FIELDS, "") | dict(texts),
        faults=faults,
        unfolded=[part for part, fields in _FOLDED.items() if not touched.isdisjoint(fields)],
        editing=name,
        generation=generation,
        known=await _known(context),
        cache_types=list(CacheType),
        strategies=list(Strategy),
        found=None,
    )


def _faults_of(problem: ProblemError) -> dict[str, str]:
    """A refusal without fields is one of the model: it was read, or was to be."""
    return faults_by_field(problem.errors) or {"model": problem.detail}


def _written(read: DeploymentRead) -> DeploymentCreate:
    """What somebody could have written to get it."""
    return DeploymentCreate.model_validate(read.model_dump(mode="json", include=set(DeploymentCreate.model_fields)))


def _taken(name: str) -> str:
    return f"there is a deployment {name} already: open it to change it, or choose another name"


async def _exists(context: ApiContext, name: str) -> bool:
    return await context.read(lambda session, now: Deployments(session, now).get(name)) is not None


async def _known(context: ApiContext) -> _Known:
    def read(session: Session, now: datetime) -> _Known:
        stored = {stored.model for models in Files(session, now).all().values() for stored in models}
        deployed = {str(status.spec.model) for status in Deployments(session, now).all()}
        devices = [
            f"{status.worker.name}:{device.kind}:{device.id.removeprefix('gpu') if device.id != 'cpu' else 0}"
            for status in Workers(session, now).all()
            for device in status.worker.devices
        ]
        sources = {f"{repo}/{file}" for repo, _, file in map(_parts_of, stored)}
        return _Known(sorted(sources | deployed), [text for text in devices if _is_device(text)][:_MOST_NAMED])

    return await context.read(read)


def _parts_of(key: str) -> tuple[str, str, str]:
    """`hf:ORG/REPO`, the commit and the first file of what `ModelFiles.key` calls a model."""
    repo, _, rest = key.partition("@")
    commit, _, file = rest.partition("/")
    return repo, commit, file


def _is_device(text: str) -> bool:
    try:
        parse_device(text)
    except ValueError:
        return False
    return True
