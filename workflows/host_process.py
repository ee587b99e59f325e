"""One process of an instance on a worker, as the instance's workflow holds it: an activity that lasts as long as it."""

from collections.abc import Callable, Collection
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError
from temporalio.exceptions import CancelledError as ActivityCancelled

with workflow.unsafe.imports_passed_through():
    from activities.types import ProcessEnd
    from stoker.domain.base import WorkerName


class HostProcess:
    """`what`: it in words; `worker`: where it is; `lost`: workers of which no word is waited for any more."""

    def __init__(
        self, activity: workflow.ActivityHandle[ProcessEnd], what: str, worker: WorkerName, lost: Collection[WorkerName]
    ) -> None:
        self.what, self.worker = what, worker
        self._activity, self._lost = activity, lost
        self._activity.add_done_callback(_retrieved)

    @property
    def has_ended(self) -> bool:
        """Whether it is over, by itself or because its host is gone."""
        return self._activity.done()

    async def end(self) -> ProcessEnd:
        """How it ended, once it has. Raises ActivityError."""
        return await self._activity

    @property
    def may_be_left(self) -> bool:
        """Whether it may still be there: nobody who can see it has said that it is gone."""
        if not self._activity.done():
            return True
        if self._activity.cancelled():
            return False
        error = self._activity.exception()
        if error is None:
            return False
        # A cancellation that no attempt answered was decided by Temporal alone: its host did not run one just then.
        answered = isinstance(error, ActivityError) and error.started_event_id > 0
        return not (answered and isinstance(error, ActivityError) and isinstance(error.cause, ActivityCancelled))

    async def stop(self, within: timedelta | None = None, *, wait: bool = True) -> None:
        """Ends it; returns when that is confirmed, or its host is lost, or has said nothing `within` this time.

        `wait`: False only asks for it.
        """
        if self._activity.done():
            return
        self._activity.cancel()
        if not wait:
            return
        over: Callable[[], bool] = lambda: self._activity.done() or self.worker in self._lost  # noqa: E731
        if within is None:
            await workflow.wait_condition(over)
            return
        try:
            await workflow.wait_condition(
                over, timeout=within, timeout_summary=f"{self.worker} must confirm that {self.what} is gone"
            )
        except TimeoutError:
            workflow.logger.warning("%s on %s is not confirmed gone", self.what, self.worker)


def _retrieved(activity: "workflow.ActivityHandle[ProcessEnd]") -> None:
    """Nobody need wait for it: what it ended with is not to be reported as never looked at."""
    if not activity.cancelled():
        activity.exception()
