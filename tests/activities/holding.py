"""A workflow that only holds one process: the smallest owner that serve_main can have."""

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.ports import MainServerSpec
    from activities.servers import ServerActivities
    from activities.types import MainReady, ProcessEnd
    from stoker.domain.naming import READY_SIGNAL, worker_queue
    from workflows import options


@workflow.defn
class Holding:
    """Until the process ends, or it is cancelled."""

    def __init__(self) -> None:
        self._told: list[MainReady] = []

    @workflow.signal(name=READY_SIGNAL)
    def main_ready(self, ready: MainReady) -> None:
        """The process answers."""
        self._told.append(ready)

    @workflow.query
    def told(self) -> list[MainReady]:
        """How often it was said that it answers."""
        return self._told

    @workflow.run
    async def run(self, server: MainServerSpec) -> ProcessEnd:
        """With the options that an instance uses."""
        return await workflow.execute_activity_method(
            ServerActivities.serve_main, server, **options.on_queue(options.SERVE, worker_queue("box"))
        )
