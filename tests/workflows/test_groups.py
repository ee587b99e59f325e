"""Groups that span several workers: the order in which they come and go, and what ends them."""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from temporalio.client import WorkflowHandle

from activities.ports import MeshPeer
from activities.types import ProcessEnd, RpcReady
from stoker.domain.deployments import InstanceState
from stoker.domain.naming import RPC_READY_SIGNAL, WORKER_LOST_SIGNAL
from tests.cluster import eventually, eventually_async, temporal
from tests.workflows.conftest import record_histories
from tests.workflows.group_hosts import ENGINE, GroupHosts, placed_on
from workflows import options
from workflows.instance import Instance
from workflows.types import StopRequest, WorkerLost

pytestmark = pytest.mark.anyio

RUNNING, BACKOFF = InstanceState.RUNNING, InstanceState.BACKOFF
KILLED = ProcessEnd(exit_code=-9, cause="killed from outside (SIGKILL)")


@pytest.fixture
async def hosts(request: pytest.FixtureRequest) -> AsyncIterator[GroupHosts]:
    """Four hosts; a group of three on the first three, unless a test says otherwise."""
    async with temporal() as environment:
        async with GroupHosts(environment.client).running("w1", "w2", "w3", "w4") as running:
            yield running
        await record_histories(environment.client, request.node.originalname)


async def running(hosts: GroupHosts, incarnation: int = 1) -> None:
    """Waits until the row says so."""
    await eventually(
        lambda: [row for row in hosts.rows if row.state is RUNNING and row.incarnation == incarnation],
        lambda: (hosts.events, hosts.rows[-3:]),
    )


async def released(hosts: GroupHosts, incarnation: int = 1) -> list[str]:
    """What happened until the claims of that incarnation were given back."""
    await eventually(
        lambda: [one for one in hosts.released if one.incarnation == incarnation],
        lambda: (hosts.events, hosts.rows[-3:]),
    )
    return hosts.events[: hosts.events.index("released")]


async def stopped(handle: WorkflowHandle[Instance, None]) -> None:
    """Ends the instance as its deployment does."""
    await handle.signal(Instance.stop, StopRequest(reason="enough"))
    await handle.result()


def why(hosts: GroupHosts) -> str:
    """What the row said when the first incarnation had ended."""
    return next(row.message for row in hosts.rows if row.state is BACKOFF)


async def test_peers_come_first_and_go_last(hosts: GroupHosts) -> None:
    handle = await hosts.start()
    await running(hosts)
    assert sorted(hosts.events[:2]) == ["rpc w2 up", "rpc w3 up"]
    assert hosts.events[2:] == ["links checked", "link w1 up", "main w1 up"]
    assert [spec.rpc_ports for spec in hosts.mains] == [(6000, 6001)]
    assert [(link.worker, link.peer) for link in hosts.links] == [("w1", "w2"), ("w1", "w3")]
    assert hosts.rows[-1].message == "answers on w1, with devices of w2, w3"
    await stopped(handle)
    assert hosts.events[5:8] == ["drained", "main w1 down", "link w1 down"]
    assert sorted(hosts.events[8:10]) == ["rpc w2 down", "rpc w3 down"]
    assert hosts.events[10:] == ["released", "row removed"]
    assert hosts.released[0].unconfirmed == ()


async def test_one_member_gone_is_the_whole_group_gone(hosts: GroupHosts) -> None:
    hosts.placements = [placed_on("w1", "w2", "w3"), placed_on("w1", "w4", "w3")]
    handle = await hosts.start()
    await running(hosts)
    hosts.end("rpc w2", KILLED)
    events = await released(hosts)
    assert events[5:8] == ["rpc w2 ended", "main w1 down", "link w1 down"]
    assert events[8:] == ["rpc w3 down"]
    assert why(hosts) == "the RPC server on w2: killed from outside (SIGKILL)"
    await running(hosts, incarnation=2)
    assert [request.avoid for request in hosts.requests] == [(), ("w2",)], "and not the others"
    assert hosts.released[0].unconfirmed == ()
    await stopped(handle)


async def test_the_one_to_be_avoided_is_avoided_by_the_incarnations_after_the_next_too(hosts: GroupHosts) -> None:
    hosts.placements = [placed_on("w1", "w2", "w3"), placed_on("w1", "w4", "w3")]
    handle = await hosts.start()
    await running(hosts)
    hosts.end("rpc w2", KILLED)
    await running(hosts, incarnation=2)
    hosts.end("rpc w4", KILLED)
    await running(hosts, incarnation=3)
    assert [request.avoid for request in hosts.requests] == [(), ("w2",), ("w2", "w4")]
    await stopped(handle)


@pytest.mark.parametrize(
    ("process", "end", "cause", "avoid"),
    [
        ("main w1", KILLED.model_copy(update={"worker": "w1"}), "the main server on w1: killed from outside", ("w1",)),
        ("main w1", ProcessEnd(cause="Remote RPC server crashed"), "the main server on w1: Remote RPC", ()),
        ("link w1", ProcessEnd(cause="w3 is silent", worker="w3"), "the link on w1: w3 is silent", ("w3",)),
        ("rpc w3", ProcessEnd(cause="the link was lost", worker="w1"), "the RPC server on w3: the link was", ("w1",)),
    ],
)
async def test_whoever_ends_says_whose_fault_it_was(
    hosts: GroupHosts, process: str, end: ProcessEnd, cause: str, avoid: tuple[str, ...]
) -> None:
    handle = await hosts.start()
    await running(hosts)
    hosts.end(process, end)
    await running(hosts, incarnation=2)
    assert why(hosts).startswith(cause)
    assert hosts.requests[-1].avoid == avoid
    await stopped(handle)


async def test_a_main_server_that_aborts_because_of_a_peer_is_not_blamed(hosts: GroupHosts) -> None:
    handle = await hosts.start()
    await running(hosts)
    hosts.end("main w1", ProcessEnd(cause="Remote RPC server crashed"))
    hosts.end("link w1", ProcessEnd(cause="w2 cut its end", worker="w2"))
    hosts.end("rpc w2", KILLED)
    await released(hosts)
    assert why(hosts) == "the RPC server on w2: killed from outside (SIGKILL)"
    await stopped(handle)


async def test_where_one_cannot_start_the_others_are_ended(hosts: GroupHosts) -> None:
    hosts.placements = [placed_on("w1", "w2", "w3"), placed_on("w1", "w4", "w3")]
    hosts.refuses["rpc w2"] = ProcessEnd(cause="could not be started: no such device", retryable=False)  # there
    handle = await hosts.start()
    events = await released(hosts)
    assert sorted(events) == ["rpc w2 refused", "rpc w3 down", "rpc w3 up"]
    assert why(hosts) == "the RPC server on w2: could not be started: no such device"
    await running(hosts, incarnation=2)
    assert hosts.requests[-1].avoid == ("w2",)
    await stopped(handle)


async def test_a_way_that_cannot_be_used_is_no_start(hosts: GroupHosts) -> None:
    hosts.placements = [placed_on("w1", "w2", "w3"), placed_on("w1", "w2", "w4")]
    hosts.problems["w3"] = "its gateway does not answer"
    handle = await hosts.start()
    events = await released(hosts)
    assert "link w1 up" not in events
    assert {"rpc w2 down", "rpc w3 down"} <= set(events)
    assert why(hosts) == "w1 cannot use the devices of w3: its gateway does not answer"
    assert [link.problem for link in hosts.links[:2]] == ["", "its gateway does not answer"]
    await running(hosts, incarnation=2)
    assert hosts.requests[-1].avoid == ("w3",)
    await stopped(handle)


async def test_where_no_way_is_good_it_is_the_main_servers_host_that_is_avoided(hosts: GroupHosts) -> None:
    hosts.placements = [placed_on("w1", "w2", "w3"), placed_on("w4", "w2", "w3")]
    hosts.problems = {"w2": "its gateway does not answer", "w3": "no route"}
    handle = await hosts.start()
    await released(hosts)
    assert why(hosts) == "w1 cannot use the devices of w2, w3: its gateway does not answer"
    hosts.problems = {}
    await running(hosts, incarnation=2)
    assert hosts.requests[-1].avoid == ("w1",)
    await stopped(handle)


async def test_what_a_member_tells_while_the_ways_are_checked_holds_afterwards(hosts: GroupHosts) -> None:
    checked, shown = hosts.gate("check"), hosts.gate("backoff")
    handle = await hosts.start()
    await eventually(lambda: "links asked for" in hosts.events, lambda: hosts.events)
    gateway = MeshPeer(worker="w3", host="127.0.0.1", port=8411)
    again = RpcReady(incarnation=1, worker="w3", pid=99_999, port=1, gateway=gateway, engine=ENGINE)
    await handle.signal(RPC_READY_SIGNAL, again)
    await eventually(lambda: "backoff waits" in hosts.events, lambda: hosts.events)  # it is being torn down
    checked.set()

    async def is_known() -> bool:
        """Whether the workflow has gone on with what the check found."""
        kept, over = 0, False
        async for event in handle.fetch_history_events():
            if event.activity_task_scheduled_event_attributes.activity_type.name == "keep_links":
                kept = event.event_id
            over = over or event.activity_task_completed_event_attributes.scheduled_event_id == kept > 0
            if over and event.HasField("workflow_task_completed_event_attributes"):
                return True
        return False

    await eventually_async(is_known, "the ways are known")
    shown.set()
    events = await released(hosts)
    assert not {"link w1 up", "main w1 up"} & set(events)
    assert why(hosts).startswith("the RPC server on w3 was started anew")
    await running(hosts, incarnation=2)
    await stopped(handle)


@pytest.mark.parametrize(
    ("missing", "cause", "avoid"),
    [
        ("rpc w3", "the RPC server on w3 did not answer within 0:00:05", ("w3",)),
        ("link w1", "the link to its RPC servers did not answer within 0:00:05", ("w1",)),
        ("main w1", "the main server did not answer within 0:00:05", ()),  # it may be slow for any of them
    ],
)
async def test_whoever_is_not_ready_in_time_is_avoided(
    monkeypatch: pytest.MonkeyPatch, missing: str, cause: str, avoid: tuple[str, ...]
) -> None:
    monkeypatch.setattr(options, "load_deadline", lambda _: timedelta(seconds=5))
    async with (
        temporal() as environment,
        GroupHosts(environment.client).running("w1", "w2", "w3", sandboxed=False) as hosts,
    ):
        hosts.never_ready.add(missing)
        handle = await hosts.start()
        await released(hosts)
        monkeypatch.undo()
        hosts.never_ready.clear()
        await running(hosts, incarnation=2)
        assert why(hosts) == cause
        assert hosts.requests[-1].avoid == avoid
        await stopped(handle)


async def test_engines_that_differ_never_meet(hosts: GroupHosts) -> None:
    hosts.placements = [placed_on("w1", "w2", "w3"), placed_on("w1", "w4", "w3")]
    hosts.engines["w2"] = ENGINE.model_copy(update={"rpc_protocol": "8.0.0"})
    handle = await hosts.start()
    events = await released(hosts)
    assert not {"links checked", "link w1 up", "main w1 up"} & set(events)
    assert why(hosts) == "the engines differ"
    await running(hosts, incarnation=2)
    await stopped(handle)


async def test_a_lost_worker_is_not_waited_for(hosts: GroupHosts) -> None:
    hosts.placements = [placed_on("w1", "w2", "w3"), placed_on("w1", "w4", "w3")]
    hosts.deaf.add("rpc w2")
    handle = await hosts.start()
    await running(hosts)
    await handle.signal(WORKER_LOST_SIGNAL, WorkerLost(worker="w9"))  # none of its own
    await handle.signal(WORKER_LOST_SIGNAL, WorkerLost(worker="w2", reason="w2 was silent for 31 s"))
    events = await released(hosts)
    assert {"main w1 down", "link w1 down", "rpc w3 down"} <= set(events)
    assert hosts.released[0].unconfirmed == ("w2",)
    assert why(hosts) == "w2 was silent for 31 s: it goes on without w2"
    await running(hosts, incarnation=2)
    assert hosts.requests[-1].avoid == ("w2",)
    hosts.deaf.clear()
    await stopped(handle)


async def test_what_is_not_confirmed_gone_in_time_is_named(hosts: GroupHosts) -> None:
    hosts.deaf.add("rpc w3")
    handle = await hosts.start()
    await running(hosts)
    await stopped(handle)  # after options.CONFIRM_END
    assert hosts.released[0].unconfirmed == ("w3",)
    assert {"main w1 down", "link w1 down", "rpc w2 down"} <= set(hosts.events)


async def test_a_host_without_an_agent_confirms_nothing(hosts: GroupHosts) -> None:
    handle = await hosts.start()
    await running(hosts)
    await hosts.stop_agent("w2")
    await stopped(handle)
    assert hosts.released[0].unconfirmed == ("w2",), "Temporal ended the activity, and nobody the process"


async def test_an_rpc_server_that_was_started_anew_ends_the_group(hosts: GroupHosts) -> None:
    handle = await hosts.start()
    await running(hosts)
    gateway = MeshPeer(worker="w3", host="127.0.0.1", port=8411)
    again = RpcReady(incarnation=1, worker="w3", pid=99_999, port=1, gateway=gateway, engine=ENGINE)
    await handle.signal(RPC_READY_SIGNAL, again.model_copy(update={"incarnation": 7}))  # of another incarnation
    await handle.signal(RPC_READY_SIGNAL, again)
    await released(hosts)
    assert why(hosts).startswith("the RPC server on w3 was started anew")
    await stopped(handle)


async def test_a_stop_while_it_starts_leaves_nothing(hosts: GroupHosts) -> None:
    hosts.never_ready.add("link w1")
    handle = await hosts.start()
    await eventually(lambda: "link w1 up" in hosts.events, lambda: hosts.events)
    await stopped(handle)
    assert "main w1 up" not in hosts.events
    assert {"link w1 down", "rpc w2 down", "rpc w3 down"} <= set(hosts.events)
    assert hosts.released[0].unconfirmed == ()


# --- on one worker alone ----------------------------------------------------------------------------------------------


async def test_an_instance_on_a_lost_worker_goes_on_elsewhere_at_once(hosts: GroupHosts) -> None:
    hosts.placements = [placed_on("w1"), placed_on("w2")]
    handle = await hosts.start()
    await running(hosts)
    await hosts.stop_agent("w1")
    await handle.signal(WORKER_LOST_SIGNAL, WorkerLost(worker="w1", reason="w1 was removed by an administrator"))
    await running(hosts, incarnation=2)
    assert why(hosts) == "w1 was removed by an administrator: it goes on without w1"
    assert hosts.released[0].unconfirmed == ("w1",)
    assert hosts.requests[-1].avoid == ("w1",)
    await stopped(handle)
    assert hosts.released[1].unconfirmed == ()


async def test_a_stop_does_not_wait_for_a_worker_that_is_lost(hosts: GroupHosts) -> None:
    hosts.placements = [placed_on("w1")]
    hosts.deaf.add("main w1")
    handle = await hosts.start()
    await running(hosts)
    await handle.signal(Instance.stop, StopRequest(reason="enough"))
    await eventually(lambda: "drained" in hosts.events, lambda: hosts.events)
    await handle.signal(WORKER_LOST_SIGNAL, WorkerLost(worker="w1"))
    await handle.result()
    assert hosts.released[0].unconfirmed == ("w1",)
