"""What a change would do, told before it is made."""

from typing import TYPE_CHECKING, Any

from entrypoints.cli.client import path, read_as
from entrypoints.cli.output import print_data, show
from entrypoints.cli.printable import tell
from entrypoints.cli.spec_flags import FIELD_NAMES
from entrypoints.cli.views.rollouts import plan_description, plan_lines

if TYPE_CHECKING:
    from api.schemas.rollouts import RolloutPlanRead
    from entrypoints.cli.client import StokerClient
    from entrypoints.cli.flags import OutputFormat


async def show_plan(client: "StokerClient", wanted: dict[str, Any], *, output: "OutputFormat") -> None:
    """Prints all of it: the answer to `--dry-run`."""
    answer = await _asked(client, wanted)
    if output == "table":
        show(plan_description(_plan(answer)))
    else:
        print_data(answer, output)


async def tell_plan(client: "StokerClient", wanted: dict[str, Any]) -> None:
    """Tells in short, beside the results, what a change of a deployment is about to do."""
    for line in plan_lines(_plan(await _asked(client, wanted))):
        tell(line)


async def _asked(client: "StokerClient", wanted: dict[str, Any]) -> Any:
    return await client.call("POST", path("deployments"), wanted, query={"dry_run": True}, field_names=FIELD_NAMES)


def _plan(answer: Any) -> "RolloutPlanRead":
    from api.schemas.rollouts import RolloutPlanRead

    return read_as(RolloutPlanRead, answer)
