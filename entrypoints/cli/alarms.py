"""What needs a person, said before a listing. On stderr: what scripts read stays what it was."""

from api.schemas.health import Health
from entrypoints.cli.client import StokerClient, path, read_as
from entrypoints.cli.printable import tell
from entrypoints.cli.refusals import RefusedError


async def show_alarms(client: StokerClient) -> None:
    """Prints the cluster's alarms, a line each; nothing where there are none, or the server is too old to know."""
    try:
        health = read_as(Health, await client.get(path("health")))
    except RefusedError as error:
        if error.status == 404:
            return
        raise
    for alarm in health.alarms:
        tell(f"ALARM {alarm.code}: {alarm.message}")
        tell(f"  not moved: what runs on {', '.join(alarm.workers)}")
