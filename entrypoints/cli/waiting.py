"""Waiting for a deployment: until it runs as it was asked for, or until it is gone."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from enum import Enum, auto

from api.schemas.deployments import DeploymentRead
from api.schemas.instances import InstanceRead
from entrypoints.cli.client import StokerClient, path, read_as
from entrypoints.cli.errors import CliError, ExitCode
from entrypoints.cli.progress import Display
from stoker.domain.deployments import InstanceState


class Verdict(Enum):
    """How a deployment stands to what is waited for."""

    WAITING = auto()
    REACHED = auto()
    FAILED = auto()


@dataclass(frozen=True)
class Goal:
    """What is waited for: as many running instances as are wanted, and none besides if `exactly`.

    How many are wanted each view says itself: demand may change it at any time. Instances that a newer generation is
    replacing do not count.
    """

    generation: int  # of the deployment; an older view of it says nothing
    exactly: bool = False

    def judge(self, deployment: DeploymentRead) -> Verdict:
        """Whether `deployment` is there, cannot get there by itself, or is on its way."""
        if deployment.generation < self.generation:
            return Verdict.WAITING
        if self._was_given_up(deployment):
            return Verdict.FAILED
        current = counted(deployment)
        running = sum(instance.state is InstanceState.RUNNING for instance in current)
        wanted = deployment.wanted
        if running >= wanted and not (self.exactly and len(deployment.instances) > wanted):
            return Verdict.REACHED
        if any(instance.state is InstanceState.FAILED for instance in current) and not _goes_back(deployment):
            return Verdict.FAILED
        return Verdict.WAITING

    def _was_given_up(self, deployment: DeploymentRead) -> bool:
        return deployment.rolled_back is not None and deployment.rolled_back.generation >= self.generation


def _goes_back(deployment: DeploymentRead) -> bool:
    """Whether only instances of another generation run: what failed will be rolled back, and that says more."""
    running = [one.generation for one in deployment.instances if one.state is InstanceState.RUNNING]
    return bool(running) and not any(map(deployment.is_current, running))


def counted(deployment: DeploymentRead) -> Sequence[InstanceRead]:
    """The instances that are there to stay."""
    return [
        instance
        for instance in deployment.instances
        if deployment.is_current(instance.generation) and instance.state is not InstanceState.STOPPING
    ]


async def wait_until_running(
    client: StokerClient, name: str, goal: Goal, *, timeout: float, display: Display
) -> DeploymentRead:
    """The deployment once it has reached `goal`, showing the way there. Raises CliError: failed, gone, too late."""
    last: DeploymentRead | None = None
    try:
        async with asyncio.timeout(timeout), aclosing(client.watch(path("deployments", name))) as changes:
            async for change in changes:
                if change.kind == "connected":
                    continue
                last = read_as(DeploymentRead, change.item)
                if change.kind == "deleted":
                    raise CliError(f"{name} was deleted meanwhile", code=ExitCode.NOT_FOUND)
                display.show(counted(last))
                verdict = goal.judge(last)
                if verdict is Verdict.REACHED:
                    return last
                if verdict is Verdict.FAILED:
                    raise _failed(last)
    except TimeoutError:
        raise CliError(
            f"{name} does not run yet after {timeout:g} s{_state(last)}",
            code=ExitCode.TIMED_OUT,
            hint=f"it goes on by itself: see `stoker why {name}`",
        ) from None
    raise AssertionError("a watch does not end by itself")


async def wait_until_all_running(
    client: StokerClient, goals: Mapping[str, Goal], *, timeout: float, display: Display
) -> None:
    """Returns when every deployment has reached its goal. Raises CliError once all others have: failed, gone, late."""
    waited = dict.fromkeys(goals, Verdict.WAITING)
    seen: dict[str, DeploymentRead] = {}
    gone: set[str] = set()
    try:
        async with asyncio.timeout(timeout), aclosing(client.watch(path("deployments"))) as changes:
            async for change in changes:
                if change.kind != "connected" and change.item["name"] in goals:
                    read = read_as(DeploymentRead, change.item)
                    seen[read.name] = read
                    waited[read.name] = goals[read.name].judge(read)
                    (gone.add if change.kind == "deleted" else gone.discard)(read.name)
                    display.show([instance for each in seen.values() for instance in counted(each)])
                if all(verdict is not Verdict.WAITING or name in gone for name, verdict in waited.items()):
                    break
    except TimeoutError:
        late = [name for name, verdict in waited.items() if verdict is Verdict.WAITING]
        raise CliError(
            *(f"{name} does not run yet after {timeout:g} s{_state(seen.get(name))}" for name in late),
            code=ExitCode.TIMED_OUT,
            hint=f"it goes on by itself: see `stoker why {late[0]}`",
        ) from None
    if gone:
        raise CliError(*(f"{name} was deleted meanwhile" for name in sorted(gone)), code=ExitCode.NOT_FOUND)
    failed = [name for name, verdict in waited.items() if verdict is Verdict.FAILED]
    if failed:
        errors = [_failed(seen[name]) for name in failed]
        raise CliError(*(str(error) for error in errors), hint=errors[0].hint)


async def wait_until_gone(client: StokerClient, name: str, *, timeout: float) -> None:
    """Returns when the deployment and all that it held is gone. Raises CliError when that is too late."""
    try:
        async with asyncio.timeout(timeout), aclosing(client.watch(path("deployments", name))) as changes:
            async for change in changes:
                if change.kind == "deleted":
                    return
    except CliError as error:
        if error.code is not ExitCode.NOT_FOUND:
            raise
    except TimeoutError:
        raise CliError(
            f"{name} is not gone yet after {timeout:g} s",
            code=ExitCode.TIMED_OUT,
            hint=f"it goes on by itself: see `stoker describe {name}`",
        ) from None


def _failed(deployment: DeploymentRead) -> CliError:
    name, given_up = deployment.name, deployment.rolled_back
    if given_up is not None:
        message = f"{name}: generation {given_up.generation} was rolled back: {given_up.reason}"
        return CliError(message, hint=f"what ran before goes on; see `stoker rollout history {name}`")
    failed = next(one for one in counted(deployment) if one.state is InstanceState.FAILED)
    return CliError(f"{name} failed: {failed.id}: {failed.message}", hint=f"see `stoker logs {failed.id}`")


def _state(last: DeploymentRead | None) -> str:
    return f": {last.state}: {last.message}" if last is not None else ""
