"""The faults: what each does to a running system, and how it ends."""

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import psutil

from tests.faults.audit import process_of, role_of
from tests.faults.spread_system import SpreadSystem

Undo = Callable[[], None]


@dataclass
class Strike:
    """One fault that has struck: when, at whom, and what ends it."""

    at: float  # time.monotonic()
    whom: str
    later: list[tuple[float, Undo]] = field(default_factory=list)  # seconds after `at`, in their order
    healed: Undo | None = None  # once the model answers again (or never does)


@dataclass(frozen=True)
class Fault:
    """One row of the table."""

    name: str
    does: str
    strike: Callable[[SpreadSystem, int], Strike]  # of so many times that it was done before
    outage: bool = True  # whether the model may stop answering at all
    watch: float = 8.0  # seconds after its last step during which nothing more may fail


def _members(system: SpreadSystem) -> list[str]:
    """The workers of the group now, the main server's first. Raises LookupError."""
    instance = system.running()
    if instance is None or instance["placement"] is None:
        raise LookupError(f"the model does not run: {instance}")
    return list(instance["placement"]["workers"])


def _peer(system: SpreadSystem, turn: int) -> str:
    """A worker that lends its devices: each in its turn. Raises LookupError where the main server is alone."""
    peers = _members(system)[1:]
    if not peers:
        raise LookupError("the model is on one worker: there is no peer")
    return peers[turn % len(peers)]


def _killed(role: str, *, of_main: bool) -> Callable[[SpreadSystem, int], Strike]:
    """kill -9 of one process: of the main server's host, or of a peer's."""

    def strike(system: SpreadSystem, turn: int) -> Strike:
        worker = _members(system)[0] if of_main else _peer(system, turn)
        process = process_of(system, worker, role)
        began = time.monotonic()
        process.kill()
        return Strike(began, f"{role} on {worker}")

    return strike


def _stalled(system: SpreadSystem, turn: int) -> Strike:
    worker = _peer(system, turn)
    process = process_of(system, worker, "rpc")
    began = time.monotonic()
    process.send_signal(signal.SIGSTOP)
    return Strike(began, f"ggml-rpc-server on {worker}")


def _agent(system: SpreadSystem, turn: int) -> Strike:
    members = _members(system)
    worker = members[turn % len(members)]
    began = time.monotonic()
    system.agents[worker].kill()  # its keeper starts it again, as systemd would
    return Strike(began, f"the agent of {worker}")


def _agent_away(system: SpreadSystem, turn: int) -> Strike:
    """Longer than `worker_grace`: what it has is given to others, and it must see to that when it returns."""
    members = _members(system)
    worker = members[turn % len(members)]
    began = time.monotonic()
    system.agents[worker].kill(hold=True)
    return Strike(began, f"the agent of {worker}", later=[(60.0, system.agents[worker].start)])


def _all_agents_away(system: SpreadSystem, turn: int) -> Strike:
    """So many at once that nobody can be believed to be dead."""
    agents = list(system.agents.values())
    began = time.monotonic()
    for agent in agents:
        agent.kill(hold=True)

    def back() -> None:
        for agent in agents:
            agent.start()

    return Strike(began, "all agents", later=[(60.0, back)])


def _while_starting(system: SpreadSystem, turn: int) -> Strike:
    """The next incarnation is struck, too, before it is up."""
    members = _members(system)
    before = (system.running() or {})["incarnation"]
    process = process_of(system, members[0], "main")
    began = time.monotonic()
    process.kill()

    def next_one() -> list[psutil.Process]:
        instance = system.instance()
        if instance is None or instance["incarnation"] == before or not instance["placement"]:
            return []
        peers = instance["placement"]["workers"][1:]
        return [one for peer in peers for one in system.network.processes(peer) if role_of(one) == "rpc"]

    started = system.eventually(next_one, "the next incarnation has an RPC server", seconds=30)
    started[turn % len(started)].kill()
    return Strike(began, f"main on {members[0]}, then an RPC server of the next incarnation")


def _host(system: SpreadSystem, worker: str, *, silent: bool) -> Strike:
    """All that a host runs dies at once. It comes back, with nothing running, when the model answers again."""
    began = time.monotonic()
    if silent:  # no kernel answers for those that are gone
        system.network.isolate(worker)
    system.agents[worker].kill(hold=True)
    system.network.kill(worker)

    def back() -> None:
        system.network.heal()
        system.agents[worker].start()

    return Strike(began, f"all of {worker}", healed=back)


def _host_of_peer(system: SpreadSystem, turn: int) -> Strike:
    return _host(system, _peer(system, turn), silent=False)


def _host_of_main(system: SpreadSystem, turn: int) -> Strike:
    return _host(system, _members(system)[0], silent=False)


def _power(system: SpreadSystem, turn: int) -> Strike:
    members = _members(system)
    return _host(system, members[turn % len(members)], silent=True)


def _unplugged(system: SpreadSystem, turn: int) -> Strike:
    """A peer's host is cut off from everybody, and goes on running."""
    worker = _peer(system, turn)
    began = time.monotonic()
    system.network.isolate(worker)
    return Strike(began, worker, healed=system.network.heal)


def _link_silent(system: SpreadSystem, turn: int) -> Strike:
    main, peer = _members(system)[0], _peer(system, turn)
    began = time.monotonic()
    system.network.cut(main, peer)
    return Strike(began, f"{main} to {peer}", healed=system.network.heal)


def _link_reset(system: SpreadSystem, turn: int) -> Strike:
    main, peer = _members(system)[0], _peer(system, turn)
    began = time.monotonic()
    count = system.network.reset(main, peer)
    if not count:
        raise LookupError(f"there is no connection from {main} to {peer}")
    return Strike(began, f"{main} to {peer}: {count} connections")


def _temporal(seconds: float) -> Callable[[SpreadSystem, int], Strike]:
    def strike(system: SpreadSystem, turn: int) -> Strike:
        began = time.monotonic()
        system.temporal.kill(hold=True)
        return Strike(began, "Temporal", later=[(seconds, system.temporal.start)])

    return strike


def _control_plane(system: SpreadSystem, turn: int) -> Strike:
    began = time.monotonic()
    system.control_plane.kill()
    return Strike(began, "the control plane")


def _api(system: SpreadSystem, turn: int) -> Strike:
    began = time.monotonic()
    system.server.kill()
    return Strike(began, "the API")


def _database_stopped(system: SpreadSystem, turn: int) -> Strike:
    began = time.monotonic()
    system.postgres.stop()
    return Strike(began, "PostgreSQL", later=[(20.0, system.postgres.start)])


def _database_frozen(system: SpreadSystem, turn: int) -> Strike:
    began = time.monotonic()
    system.postgres.freeze()
    return Strike(began, "PostgreSQL", later=[(20.0, system.postgres.thaw)])


FAULTS = {
    fault.name: fault
    for fault in (
        Fault("main-server", "kill -9 of llama-server", _killed("main", of_main=True)),
        Fault("rpc-server", "kill -9 of one ggml-rpc-server", _killed("rpc", of_main=False)),
        Fault("agent", "kill -9 of one agent", _agent, outage=False, watch=40.0),
        Fault("host-of-peer", "kill -9 of a peer's agent and all its processes at once", _host_of_peer),
        Fault("host-of-main", "the same of the main server's host", _host_of_main),
        Fault("power", "a host of the group is gone at once: nothing answers there", _power),
        Fault("stall", "SIGSTOP of one ggml-rpc-server", _stalled),
        Fault("link-silent", "the link to a peer loses everything both ways", _link_silent),
        Fault("link-reset", "the link's connections to a peer are reset", _link_reset),
        Fault("unplugged", "a peer's host reaches nobody, and goes on running", _unplugged),
        Fault("link-process", "kill -9 of the link process", _killed("link", of_main=True)),
        Fault("gateway", "kill -9 of a peer's gateway", _killed("gateway", of_main=False)),
        Fault("gateway-of-main", "kill -9 of the main server's host's gateway", _killed("gateway", of_main=True)),
        Fault("agent-away", "one agent is away for 60 s", _agent_away, watch=40.0),
        Fault("all-agents-away", "all agents are away for 60 s", _all_agents_away, outage=False, watch=40.0),
        Fault("while-starting", "kill -9 of llama-server, then of an RPC server that starts anew", _while_starting),
        Fault("temporal-5", "kill -9 of Temporal, back after 5 s", _temporal(5.0), outage=False, watch=40.0),
        Fault("temporal-90", "kill -9 of Temporal, back after 90 s", _temporal(90.0), outage=False, watch=40.0),
        Fault("control-plane", "kill -9 of the control plane", _control_plane, outage=False, watch=15.0),
        Fault("api", "kill -9 of the API", _api),
        Fault("database", "PostgreSQL is stopped for 20 s", _database_stopped, outage=False, watch=35.0),
        Fault("database-frozen", "PostgreSQL stands still for 20 s", _database_frozen, outage=False, watch=35.0),
    )
}
