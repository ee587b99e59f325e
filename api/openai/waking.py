"""Requests for a model that sleeps: the first one has it woken, and all wait until one of its replicas answers.

As long as somebody waits, the route table is read anew several times a second: a replica is seen at once. Nothing of
this is on the way of a request whose model has a replica.
"""

import asyncio
from typing import Protocol

import structlog

from api.openai.availability import unavailable
from api.openai.call import ClientGoneError, ClientWatch
from api.openai.directory import Directory
from api.openai.errors import model_not_found
from api.openai.router import ModelRoute

_log = structlog.get_logger()

LOOK_EVERY_SECONDS = 0.1


class Wakes(Protocol):
    """Has models started."""

    def wake(self, deployment: str) -> None:
        """Has a first replica of it started. At once, and as often as one likes: what comes of it is seen in the
        route table."""
        ...


class _Nobody:
    def wake(self, deployment: str) -> None:
        pass


NOBODY_WAKES: Wakes = _Nobody()
"""For where models do not sleep."""


class _Held:
    """One request that waits."""

    __slots__ = ("over",)

    def __init__(self) -> None:
        self.over: asyncio.Future[ModelRoute | None] = asyncio.get_running_loop().create_future()

    def end(self, route: ModelRoute | None) -> None:
        """The wait is over; None: there is no such model any more."""
        if not self.over.done():
            self.over.set_result(route)

    def abort(self) -> None:
        """Its client has gone."""
        self.end(None)


class Waking:
    """The requests that wait for first replicas. For one event loop."""

    def __init__(self, directory: Directory, wakes: Wakes, longest: float) -> None:
        """None waits longer than `longest` seconds."""
        self._directory, self._wakes, self._longest = directory, wakes, longest
        self._held: dict[str, set[_Held]] = {}  # by deployment
        self._looking: asyncio.Task[None] | None = None  # while anybody waits

    def wake(self, route: ModelRoute) -> None:
        """Has the model started if it sleeps. At once."""
        if route.sleeps:
            self._wakes.wake(route.name)

    async def awake(self, route: ModelRoute, watch: ClientWatch, deadline: float) -> ModelRoute:
        """The route once it has a replica. `deadline`: of the event loop's clock; the request waits no longer.

        Raises ClientGoneError, and APIError: 503 where it takes too long or cannot start, 404 where it was deleted.
        """
        held = _Held()
        self._held.setdefault(route.name, set()).add(held)
        watch.guard(held)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        latest = min(deadline, asyncio.get_running_loop().time() + self._longest)
        try:
            async with asyncio.timeout_at(latest):
                found = await held.over
        except TimeoutError:
            raise unavailable(self._directory.table().models.get(route.name, route)) from None
        finally:
            self._let_go(route.name, held)
        if watch.gone:
            raise ClientGoneError
        if found is None:
            raise model_not_found(route.name)
        if not found.replicas:
            raise unavailable(found)
        return found

    def _let_go(self, name: str, held: _Held) -> None:
        others = self._held[name]
        others.discard(held)
        if not others:
            del self._held[name]

    async def _look(self) -> None:
        """Ends the wait of all whose model has a replica, or will have none, as long as anybody waits."""
        while self._held:
            try:
                models = (await self._directory.refreshed()).models
                for name in tuple(self._held):
                    self._tell(name, models.get(name))
            except Exception:  # noqa: BLE001 - the last guard: whatever it is, the next look may succeed
                _log.exception("looking_for_replicas_crashed")
            await asyncio.sleep(LOOK_EVERY_SECONDS)

    def _tell(self, name: str, route: ModelRoute | None) -> None:
        if route is not None and route.is_awaited:
            self.wake(route)
            return
        for held in tuple(self._held.get(name, ())):
            held.end(route)
