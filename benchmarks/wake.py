"""How long a pending deployment waits from the moment that room is free: claims released to `placing` to running.

One machine offers room for one model; a second one waits, the first is removed, again and again. The moments are read
from the workflows' own histories. Ends with one JSON line, in seconds.
"""

import asyncio
import json
import tempfile
from datetime import datetime
from pathlib import Path

from temporalio.api.enums.v1 import EventType
from temporalio.client import Client

from benchmarks.deploy import percentile
from stoker.domain.naming import instance_workflow_id
from stoker.temporal import connect
from tests.builders import write_tiny_llama
from tests.e2e.system import System, eventually, running_system

ROUNDS = 10
OFFER = "700MiB"  # room for one


def main() -> None:
    """Measures, and prints one JSON line at the end."""
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch) / "model.gguf"
        write_tiny_llama(model)
        arguments = ("--model-dir", scratch, "--offer", f"cpu={OFFER}")
        with running_system(Path(scratch) / "data", *arguments) as system:
            measured = asyncio.run(rounds(system, model))
    placing, placed = [one for one, _ in measured], [two for _, two in measured]
    result = {
        "benchmark": "wake",
        "rounds": ROUNDS,
        "freed_to_placing_p50": percentile(placing, 50),
        "freed_to_placing_p99": percentile(placing, 99),
        "freed_to_placed_p50": percentile(placed, 50),
        "freed_to_placed_p99": percentile(placed, 99),
    }
    print(json.dumps(result))


async def rounds(system: System, model: Path) -> list[tuple[float, float]]:
    """Seconds from freed to placing and to placed, a pair a round."""
    client = await connect(f"127.0.0.1:{system.temporal_port}", wait_seconds=10)
    deploy(system, "round-0", model)
    (first,) = system.running("round-0")
    measured = []
    for number in range(1, ROUNDS + 1):
        name = f"round-{number}"
        deploy(system, name, model)
        eventually(lambda name=name: (system.deployment(name) or {}).get("state") == "pending", system.logs)
        system.cli("rm", f"round-{number - 1}", "--no-wait")
        (second,) = system.running(name)
        # An upper bound: the claims are free only once this activity has run.
        freed = await moment(client, first["id"], "release", scheduled=True)
        placing = await moment(client, second["id"], "place", scheduled=True)
        placed = await moment(client, second["id"], "place")
        measured.append(((placing - freed).total_seconds(), (placed - freed).total_seconds()))
        first = second
    await asyncio.sleep(0.1)  # lets the SDK's threads end
    return measured


def deploy(system: System, name: str, model: Path) -> None:
    """Creates a deployment without waiting for it."""
    system.cli("deploy", name, "--model", f"file:{model}", "--no-wait")


async def moment(client: Client, instance_id: str, activity: str, *, scheduled: bool = False) -> datetime:
    """When the last activity of that name of an instance was scheduled, or completed."""
    history = await client.get_workflow_handle(instance_workflow_id(instance_id)).fetch_history()
    ids, found = set(), []
    for event in history.events:
        if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
            if event.activity_task_scheduled_event_attributes.activity_type.name == activity:
                ids.add(event.event_id)
                if scheduled:
                    found.append(event.event_time.ToDatetime())
        elif (
            event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED
            and event.activity_task_completed_event_attributes.scheduled_event_id in ids
            and not scheduled
        ):
            found.append(event.event_time.ToDatetime())
    return found[-1]


if __name__ == "__main__":
    main()
