"""`stoker apply`, and `diff`: from what the cluster is to what the file says, by the API's own routes."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeVar

import typer

from api.schemas.deployments import DeploymentRead
from api.schemas.routes import RouteRead
from entrypoints.cli.client import StokerClient, path, read_as
from entrypoints.cli.cluster_file import ClusterFile
from entrypoints.cli.errors import CliError, ExitCode
from entrypoints.cli.flags import OutputFormat
from entrypoints.cli.output import print_data, show
from entrypoints.cli.printable import tell
from entrypoints.cli.progress import display
from entrypoints.cli.refusals import NoAnswerError, RefusedError
from entrypoints.cli.views.cluster_plan import done_word, plan_summary, plan_view
from entrypoints.cli.waiting import Goal, wait_until_all_running, wait_until_gone
from stoker.domain.cluster_plan import Action, ClusterSpec, Kind, Step, faults, plan

AT_ONCE = 8
"""Changes that are under way at the same time."""

_CHANGES = (Action.MAKE, Action.CHANGE, Action.REMOVE)
_QUESTION_NAMES = {"deployment.model": "model", "deployment.devices": "devices"}

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Cluster:
    """What there is. A deployment that is being deleted is not in `spec`, but in `deleting`."""

    spec: ClusterSpec
    deleting: frozenset[str]


@dataclass(frozen=True)
class Outcome:
    """What became of a step; `error` where it failed, or was not tried any more."""

    step: Step
    error: CliError | None = None


async def read_cluster(client: StokerClient) -> Cluster:
    """All deployments and routes of the server."""
    found, routes = await asyncio.gather(client.all(path("deployments")), client.all(path("routes")))
    deployments = [read_as(DeploymentRead, item) for item in found]
    spec = ClusterSpec(
        deployments=tuple(each.spec() for each in deployments if each.state != "deleting"),
        routes=tuple(each.spec(each.name) for each in (read_as(RouteRead, item) for item in routes)),
    )
    return Cluster(spec, frozenset(each.name for each in deployments if each.state == "deleting"))


async def show_difference(client: StokerClient, wanted: ClusterFile, *, prune: bool, output: OutputFormat) -> bool:
    """Prints what `apply` would do; whether that is anything. Raises CliError."""
    _, steps = await _planned(client, wanted, prune=prune)
    _show(steps, output)
    return any(step.action in _CHANGES for step in steps)


async def apply_cluster(
    client: StokerClient,
    wanted: ClusterFile,
    *,
    prune: bool,
    dry_run: bool,
    yes: bool,
    wait: bool,
    timeout: float,
    output: OutputFormat,
) -> None:
    """Checks everything, shows the plan, asks about removals, takes the steps, and waits. Raises CliError."""
    cluster, steps = await _planned(client, wanted, prune=prune)
    await _check_models(client, wanted, steps, cluster.spec)
    if dry_run or output == "table":
        _show(steps, output)
    if dry_run:
        return
    if not yes:
        _confirm(sum(step.action is Action.REMOVE for step in steps))
    try:
        outcomes = await _Application(client, wanted, cluster.deleting, timeout).take(steps)
    except asyncio.CancelledError:
        typer.echo("what was done stays; the same command goes on from here", err=True)
        raise
    if output == "table":
        typer.echo(plan_summary(outcome.step for outcome in outcomes if outcome.error is None))
    else:
        print_data([_as_data(outcome) for outcome in outcomes], output)
    _raise_failed(outcomes)
    if wait:
        await _wait(client, wanted, timeout)


async def _planned(client: StokerClient, wanted: ClusterFile, *, prune: bool) -> tuple[Cluster, tuple[Step, ...]]:
    """What there is, and the steps from there. Raises CliError where the file contradicts itself or what there is."""
    cluster = await read_cluster(client)
    wanted.refuse(faults(wanted.spec, cluster.spec, prune=prune))
    return cluster, plan(wanted.spec, cluster.spec, prune=prune)


async def _check_models(client: StokerClient, wanted: ClusterFile, steps: Sequence[Step], current: ClusterSpec) -> None:
    """Has the server look at each model that it does not serve yet, and at the devices named. Raises CliError."""
    served, bodies = {str(spec.model) for spec in current.deployments}, wanted.bodies()
    asked: dict[tuple[str, ...], str] = {}
    for step in steps:
        if step.kind is Kind.DEPLOYMENT and step.action in (Action.MAKE, Action.CHANGE):
            model, devices = bodies[step.name]["model"], bodies[step.name].get("devices", ())
            if model not in served or devices:
                asked.setdefault((model, *devices), step.name)

    async def look(name: str) -> CliError | None:
        try:
            await client.call("POST", path("placements"), {"deployment": bodies[name]}, field_names=_QUESTION_NAMES)
        except RefusedError as error:
            return error
        except CliError as error:  # no answer: the other models need not be asked about
            error.hint = error.hint or "nothing was applied"
            raise
        return None

    names = list(asked.values())
    refused = [
        (name, error) for name, error in zip(names, await _few_at_once(look, names), strict=True) if error is not None
    ]
    if refused:
        messages = [f"{wanted.place_of(name)}: {message}" for name, error in refused for message in error.messages]
        raise CliError(*messages, code=refused[0][1].code, hint=refused[0][1].hint or "nothing was applied")


def _confirm(removed: int) -> None:
    """Asks about removals on a terminal; elsewhere, nothing is removed without --yes: the file may be cut short."""
    if not removed:
        return
    if sys.stdin.isatty() and sys.stdout.isatty():
        typer.confirm(f"apply this, and remove {removed}?", abort=True, err=True)
        return
    raise CliError(
        f"--prune would remove {removed}, and there is no terminal to ask on: nothing was applied",
        code=ExitCode.USAGE,
        hint="apply it all the same with --yes, or see with --dry-run what would go",
    )


class _Application:
    """One run of `apply`: its steps in their order, those of one kind a few at once."""

    def __init__(self, client: StokerClient, wanted: ClusterFile, deleting: frozenset[str], timeout: float) -> None:
        self._client, self._deleting, self._timeout = client, deleting, timeout
        self._bodies, self._route_bodies = wanted.bodies(), wanted.route_bodies()
        self._broken = False  # the server does not answer as it should: what was not begun is not tried any more

    async def take(self, steps: Sequence[Step]) -> list[Outcome]:
        """What became of each. Nothing is removed after something failed."""
        outcomes: list[Outcome] = []
        for (_, removes), group in groupby(steps, key=lambda step: (step.kind, step.action is Action.REMOVE)):
            failed = any(outcome.error is not None for outcome in outcomes)
            if removes and failed:
                error = CliError("not removed, because not all else was done")
                outcomes += [Outcome(step, error) for step in group]
            else:
                outcomes += await _few_at_once(self._take, list(group))
        return outcomes

    async def _take(self, step: Step) -> Outcome:
        if step.action not in _CHANGES:
            return Outcome(step)
        if self._broken:
            return Outcome(step, CliError("not tried any more"))
        try:
            await (self._take_deployment(step) if step.kind is Kind.DEPLOYMENT else self._take_route(step))
        except CliError as error:
            self._broken |= isinstance(error, NoAnswerError) or (
                isinstance(error, RefusedError) and error.status >= 500
            )
            return Outcome(step, error)
        tell(f"{step.kind} {step.name}: {done_word(step.action)}")
        return Outcome(step)

    async def _take_deployment(self, step: Step) -> None:
        if step.action is Action.REMOVE:
            await self._client.call("DELETE", path("deployments", step.name))
            return
        if step.name in self._deleting:  # one of its name that is on its way out
            await wait_until_gone(self._client, step.name, timeout=self._timeout)
        await self._client.call("POST", path("deployments"), self._bodies[step.name])

    async def _take_route(self, step: Step) -> None:
        if step.action is Action.REMOVE:
            await self._client.call("DELETE", path("routes", step.name))
            return
        await self._client.call("PUT", path("routes", step.name), self._route_bodies[step.name])


async def _wait(client: StokerClient, wanted: ClusterFile, timeout: float) -> None:
    """Returns when all that the file names runs. Raises CliError: failed, gone, too late."""
    there = {item["name"]: read_as(DeploymentRead, item) for item in await client.all(path("deployments"))}
    named = [spec.name for spec in wanted.spec.deployments]
    gone = [name for name in named if name not in there]
    if gone:
        raise CliError(*(f"{name} was deleted meanwhile" for name in gone), code=ExitCode.NOT_FOUND)
    goals = {name: Goal(generation=there[name].generation) for name in named}
    with display() as shown:
        await wait_until_all_running(client, goals, timeout=timeout, display=shown)
    typer.echo(f"all {len(goals)} run")


async def _few_at_once(call: Callable[[T], Awaitable[R]], items: Sequence[T]) -> list[R]:
    """What `call` makes of each item, in their order; AT_ONCE are under way. The first error ends all."""
    room = asyncio.Semaphore(AT_ONCE)

    async def one(item: T) -> R:
        async with room:
            return await call(item)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(item)) for item in items]
    except ExceptionGroup as errors:  # a command ends with one error, not with a traceback of several
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


def _show(steps: Sequence[Step], output: OutputFormat) -> None:
    if output == "table":
        show(plan_view(steps))
    else:
        print_data([step.model_dump(mode="json") for step in steps], output)


def _as_data(outcome: Outcome) -> dict[str, Any]:
    error = str(outcome.error) if outcome.error is not None else None
    return {**outcome.step.model_dump(mode="json"), "error": error}


def _raise_failed(outcomes: Sequence[Outcome]) -> None:
    """Raises one CliError with a line for each step that failed, and the exit code of the first of them."""
    failed = [(outcome.step, outcome.error) for outcome in outcomes if outcome.error is not None]
    if failed:
        messages = [f"{step.kind} {step.name}: {message}" for step, error in failed for message in error.messages]
        hint = failed[0][1].hint or "what was done stays; the same command goes on from here"
        raise CliError(*messages, code=failed[0][1].code, hint=hint)
