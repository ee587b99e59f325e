"""The one way to Temporal: how to connect, how payloads are written, how workflows are sandboxed."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from temporalio.api.enums.v1 import IndexedValueType, TaskQueueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client, Interceptor
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.envconfig import ClientConfig
from temporalio.runtime import LoggingConfig, Runtime, TelemetryConfig, TelemetryFilter
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from stoker.domain.base import InstanceId, WorkerName
from stoker.domain.naming import (
    CAPACITY_SIGNAL,
    SCALE_SIGNAL,
    SEARCH_ATTRIBUTES,
    WORKER_LOST_SIGNAL,
    deployment_workflow_id,
    instance_workflow_id,
)
from stoker.domain.scaling import Rescale

log = structlog.get_logger()

_CONNECT_PAUSE_SECONDS = 0.25
_RPC_TIMEOUT = timedelta(seconds=10)
_PROBE_TIMEOUT = timedelta(seconds=2)
_POLL_AGE = timedelta(seconds=70)  # a long poll lasts a minute


class TemporalUnreachableError(Exception):
    """No Temporal server answered in time; the message names the address and the last error."""


def workflow_runner() -> SandboxedWorkflowRunner:
    """The sandbox for our workflows. Our own packages pass through it: they are pure, and loaded once."""
    restrictions = SandboxRestrictions.default.with_passthrough_modules("stoker", "activities", "pydantic", "structlog")
    return SandboxedWorkflowRunner(restrictions=restrictions)


def quiet_runtime() -> Runtime:
    """Temporal's core logs warnings only: what matters is in our own log."""
    filtered = TelemetryFilter(core_level="WARN", other_level="ERROR")
    return Runtime(telemetry=TelemetryConfig(logging=LoggingConfig(filter=filtered)))


async def connect(
    address: str = "",
    *,
    identity: str | None = None,
    lazy: bool = False,
    wait_seconds: float = 0.0,
    runtime: Runtime | None = None,
    interceptors: Sequence[Interceptor] = (),
) -> Client:
    """A client for `address`, or for what TEMPORAL_* and the profile of temporalio.envconfig say when it is empty.

    Tries for `wait_seconds` before it raises TemporalUnreachableError (at once for what is no address); a lazy client
    connects at its first call. `interceptors` that are for workers, too, hold for all that are given this client.
    """
    config: dict[str, Any] = {**ClientConfig.load_client_connect_config()}
    if address:
        config["target_host"] = address
    config.setdefault("target_host", "localhost:7233")
    deadline = asyncio.get_running_loop().time() + wait_seconds
    waiting = False
    while True:
        try:
            return await Client.connect(
                **config,
                data_converter=pydantic_data_converter,
                identity=identity,
                lazy=lazy,
                runtime=runtime,
                interceptors=interceptors,
            )
        except ValueError as error:  # waiting cannot help
            raise TemporalUnreachableError(
                f"{config['target_host']!r} is no address of Temporal: write it like 127.0.0.1:7233 ({error})"
            ) from error
        except RuntimeError as error:  # the SDK's own type for "could not connect"
            if asyncio.get_running_loop().time() >= deadline:
                raise TemporalUnreachableError(
                    f"Temporal does not answer at {config['target_host']}: {error}"
                ) from error
            if not waiting:
                log.warning("waiting_for_temporal", address=config["target_host"], error=str(error))
            waiting = True
            await asyncio.sleep(_CONNECT_PAUSE_SECONDS)


async def register_search_attributes(client: Client) -> None:
    """Makes sure that the namespace knows our search attributes: a workflow that sets an unknown one is stuck."""
    operator = client.operator_service
    listed = await operator.list_search_attributes(
        ListSearchAttributesRequest(namespace=client.namespace), timeout=_RPC_TIMEOUT
    )
    missing = {name for name in SEARCH_ATTRIBUTES if name not in listed.custom_attributes}
    if not missing:
        return
    request = AddSearchAttributesRequest(namespace=client.namespace)
    for name in missing:
        request.search_attributes[name] = IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD
    try:
        await operator.add_search_attributes(request, timeout=_RPC_TIMEOUT)
    except RPCError as error:
        if error.status is not RPCStatusCode.ALREADY_EXISTS:
            raise


async def has_pollers(client: Client, queue: str) -> bool:
    """Whether anybody asks for work from the queue. Raises RPCError, RuntimeError when Temporal is away.

    Who is gone is found out after a minute: that long a question for work may stay open.
    """
    request = DescribeTaskQueueRequest(
        namespace=client.namespace,
        task_queue=TaskQueue(name=queue),
        task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
    )
    answer = await client.workflow_service.describe_task_queue(request, timeout=_PROBE_TIMEOUT)
    oldest = datetime.now(UTC) - _POLL_AGE
    return any(poller.last_access_time.ToDatetime(UTC) >= oldest for poller in answer.pollers)


class TemporalInstanceCalls:
    """Reaches instances' workflows from outside them."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def wake(self, instance_ids: Sequence[InstanceId]) -> None:
        """Signals `capacity` to each. One that is gone is fine; any other error is raised, to be tried again."""
        await asyncio.gather(*(self._wake(instance_id) for instance_id in instance_ids))

    async def _wake(self, instance_id: InstanceId) -> None:
        await self._signal(instance_id, CAPACITY_SIGNAL)

    async def worker_lost(self, instance_id: InstanceId, worker: WorkerName, reason: str) -> None:
        """Signals that the worker is lost. An instance that is gone is fine; any other error is raised."""
        await self._signal(instance_id, WORKER_LOST_SIGNAL, {"worker": worker, "reason": reason})  # a WorkerLost

    async def _signal(self, instance_id: InstanceId, signal: str, *content: Any) -> None:
        handle = self._client.get_workflow_handle(instance_workflow_id(instance_id))
        try:
            await handle.signal(signal, args=content, rpc_timeout=_RPC_TIMEOUT)
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise

    async def ended(self, instance_ids: Sequence[InstanceId]) -> tuple[InstanceId, ...]:
        """Those whose workflow is closed or does not exist."""
        closed = await asyncio.gather(*(self._closed(instance_id) for instance_id in instance_ids))
        return tuple(instance_id for instance_id, is_closed in zip(instance_ids, closed, strict=True) if is_closed)

    async def _closed(self, instance_id: InstanceId) -> bool:
        handle = self._client.get_workflow_handle(instance_workflow_id(instance_id))
        try:
            description = await handle.describe(rpc_timeout=_RPC_TIMEOUT)
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return True
            raise
        return description.close_time is not None


class TemporalDeploymentCalls:
    """Reaches deployments' workflows from outside them."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def scale(self, rescale: Rescale) -> bool:
        """Signals how many replicas it should have; False where no workflow runs. Any other error is raised."""
        handle = self._client.get_workflow_handle(deployment_workflow_id(rescale.deployment))
        content = {"replicas": rescale.replicas, "seen": rescale.seen, "reason": rescale.reason}  # a ScaleRequest
        try:
            await handle.signal(SCALE_SIGNAL, content, rpc_timeout=_RPC_TIMEOUT)
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise
            return False
        return True
