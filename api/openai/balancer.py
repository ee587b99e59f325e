"""The work in flight and the health of every engine: what `router.choose` decides by."""

from collections import Counter
from collections.abc import Callable, Collection, Sequence

from api.openai.exchange import Address
from api.openai.router import Replica, Strike, choose, strike


class Balancer:
    """Counts requests and failures by engine. For one event loop."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` returns seconds that only grow."""
        self._clock = clock
        self._in_flight: Counter[Address] = Counter()
        self._strikes: dict[Address, Strike] = {}

    def acquire(self, replicas: Sequence[Replica], excluded: Collection[Address] = ()) -> Replica | None:
        """The replica for one more request, counted as in flight until `release`; None when all are excluded."""
        unhealthy: Collection[Address] = ()
        if self._strikes:
            now = self._clock()
            unhealthy = {
                address for address, known in self._strikes.items() if known.is_out(now, self._in_flight[address])
            }
        replica = choose(replicas, self._in_flight, excluded, unhealthy)
        if replica is not None:
            self._in_flight[replica.address] += 1
        return replica

    def release(self, replica: Replica) -> None:
        """The request that `acquire` counted is over."""
        self._in_flight[replica.address] -= 1
        if self._in_flight[replica.address] <= 0:
            del self._in_flight[replica.address]

    def failed(self, replica: Replica) -> None:
        """The engine did not answer as an engine should: it is out, and tried again after a pause."""
        self._strikes[replica.address] = strike(self._strikes.get(replica.address), self._clock())

    def succeeded(self, replica: Replica) -> None:
        """The engine answered: whatever was held against it is forgotten."""
        if self._strikes:
            self._strikes.pop(replica.address, None)

    def in_flight(self, address: Address) -> int:
        """Requests now at this engine."""
        return self._in_flight[address]

    def is_out(self, address: Address) -> bool:
        """Whether the engine is passed over now."""
        known = self._strikes.get(address)
        return known is not None and known.is_out(self._clock(), self._in_flight[address])

    def forget_all_but(self, addresses: Collection[Address]) -> None:
        """Drops what is known of engines that are gone."""
        for address in [known for known in self._strikes if known not in addresses]:
            del self._strikes[address]
