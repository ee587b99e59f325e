"""The work in flight and the health of every engine: what `router.choose` decides by."""

from collections.abc import Callable, Collection, Sequence

from api.openai.affinity import preferred
from api.openai.exchange import Address
from api.openai.router import Replica, Strike, Work, choose, strike


class Balancer:
    """Counts requests and failures by engine. For one event loop."""

    def __init__(self, clock: Callable[[], float], processes: int = 1) -> None:
        """`clock` returns seconds that only grow. `processes` share the engines, this one counted."""
        self._clock, self._processes = clock, processes
        self._work: dict[Address, Work] = {}
        self._strikes: dict[Address, Strike] = {}
        self._tried: set[Address] = set()  # engines with a strike that a request has been sent to since

    def acquire(
        self,
        replicas: Sequence[Replica],
        excluded: Collection[Address] = (),
        *,
        prefix: int = 0,
        prompt_bytes: int = 0,
    ) -> Replica | None:
        """The replica for one more request, counted as in flight until `release`; None when all are excluded.

        Engines that are out are asked only when no other is left: one that may be back beats a certain error.
        `prefix`: of the conversation, which has a replica of its own among those that can be asked; 0: none.
        """
        if excluded:
            replicas = [replica for replica in replicas if replica.address not in excluded]
        if self._strikes:
            replicas = self._healthy(replicas) or replicas
        own = preferred(prefix, replicas) if prefix and len(replicas) > 1 else None
        replica = choose(replicas, self._work, own=own, prompt_bytes=prompt_bytes, processes=self._processes)
        if replica is not None:
            work = self._work.get(replica.address)
            if work is None:
                work = self._work[replica.address] = Work()
            if self._strikes and replica.address in self._strikes:
                self._tried.add(replica.address)
            work.requests += 1
            work.prompt_bytes += prompt_bytes
        return replica

    def release(self, replica: Replica, prompt_bytes: int = 0) -> None:
        """The request that `acquire` counted is over."""
        work = self._work[replica.address]
        work.requests -= 1
        work.prompt_bytes -= prompt_bytes
        if self._tried:  # whichever it was: its client may have gone before anything was known
            self._tried.discard(replica.address)

    def failed(self, replica: Replica) -> None:
        """The engine did not answer as an engine should: it is out, and tried again after a pause."""
        self._strikes[replica.address] = strike(self._strikes.get(replica.address), self._clock())
        self._tried.discard(replica.address)

    def succeeded(self, replica: Replica) -> None:
        """The engine answered: whatever was held against it is forgotten."""
        if self._strikes:
            self._strikes.pop(replica.address, None)
            self._tried.discard(replica.address)

    def in_flight(self, address: Address) -> int:
        """Requests now at this engine."""
        work = self._work.get(address)
        return work.requests if work is not None else 0

    def is_out(self, address: Address) -> bool:
        """Whether the engine is passed over now."""
        known = self._strikes.get(address)
        return known is not None and known.is_out(self._clock(), tried=address in self._tried)

    def forget_all_but(self, addresses: Collection[Address]) -> None:
        """Drops what is known of engines that are gone, once nothing is in flight there any more."""
        for address in [known for known in self._strikes if known not in addresses]:
            del self._strikes[address]
            self._tried.discard(address)
        for address in [known for known, work in self._work.items() if known not in addresses and not work.requests]:
            del self._work[address]

    def _healthy(self, replicas: Sequence[Replica]) -> Sequence[Replica]:
        now = self._clock()
        out = {address for address, known in self._strikes.items() if known.is_out(now, tried=address in self._tried)}
        return [replica for replica in replicas if replica.address not in out]
