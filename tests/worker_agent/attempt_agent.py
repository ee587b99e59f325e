"""An agent with one endless activity, and the workflow that waits for it: `python -m … ADDRESS FOLDER` is killed."""

import asyncio
import sys
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from pathlib import Path

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.common import RetryPolicy
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from worker_agent.attempts import AttemptJournal

QUEUE = "worker.box"


@activity.defn
async def stay() -> int:
    """The first attempt never ends; a later one says which it is."""
    print("staying", flush=True)
    if activity.info().attempt == 1:
        await asyncio.Event().wait()
    return activity.info().attempt


@activity.defn
async def break_down() -> None:
    """Fails."""
    raise RuntimeError("broken")


@workflow.defn
class Host:
    """Runs one activity on the host's queue."""

    @workflow.run
    async def run(self, name: str) -> int | None:
        """With time-outs so long that only a report can end an attempt."""
        attempt: int | None = await workflow.execute_activity(
            name,
            task_queue=QUEUE,
            start_to_close_timeout=timedelta(hours=1),
            heartbeat_timeout=timedelta(minutes=10),
            retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=10), maximum_attempts=2),
        )
        return attempt


def control_plane(client: Client) -> AbstractAsyncContextManager[object]:
    """Runs the workflows. It is not killed."""
    return Worker(client, task_queue="control", workflows=[Host], workflow_runner=UnsandboxedWorkflowRunner())


def agent(client: Client, folder: Path) -> AbstractAsyncContextManager[object]:
    """Takes the host's work, with a journal of its attempts."""
    return Worker(
        client,
        task_queue=QUEUE,
        activities=[stay, break_down],
        interceptors=[AttemptJournal(folder)],
        graceful_shutdown_timeout=timedelta(0),
    )


async def main(address: str, folder: str) -> None:
    """Until it is killed."""
    client = await Client.connect(address, data_converter=pydantic_data_converter)
    async with agent(client, Path(folder)):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
