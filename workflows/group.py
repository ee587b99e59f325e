"""A model spread over several workers, as its instance's workflow holds it: one unit, which lives and ends as a whole.

Up: the RPC servers of all peers at once, then the checked ways to them, then the link, then the main server.
Down: the main server first (it aborts when a peer goes before it), then the link, then the RPC servers; each
confirmed, or left behind after `options.CONFIRM_END`. The end of any member is the end of the group.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities.groups import GroupActivities
    from activities.links import LinkActivities
    from activities.ports import LinkSpec, MainServerSpec, ProcessKey, RpcServerSpec
    from activities.types import (
        CheckLinksInput,
        CheckLinksResult,
        KeepLinksInput,
        LinkReady,
        PeerToCheck,
        ProcessEnd,
        RpcReady,
    )
    from stoker.domain.base import WorkerName
    from stoker.domain.links import WorkerLink
    from stoker.domain.llamacpp import rpc_peers
    from stoker.domain.naming import worker_queue
    from workflows import options
    from workflows.endings import end_on, lost_worker, too_slow
    from workflows.host_process import HostProcess
    from workflows.main_server import drain_main_server, start_main_server


_RUMOUR = 2  # of `Group._hearsay`: from here on, an end may be of another's making


class Group:
    """Starting it is making it. To its instance it is what `MainServer` is.

    `lost`: workers of which no word is waited for any more, each with the reason; it may grow.
    """

    def __init__(self, spec: MainServerSpec, lost: Mapping[WorkerName, str]) -> None:
        self._spec, self._lost = spec, lost
        self._main_worker = spec.placement.worker
        self._peers = {worker: self._start_rpc(worker) for worker in rpc_peers(spec.placement)}
        self._link: HostProcess | None = None
        self._main: HostProcess | None = None
        self._rpc_ready: dict[WorkerName, RpcReady] = {}
        self._link_ready: LinkReady | None = None
        self._fault: ProcessEnd | None = None  # what is wrong though no process has ended
        self._cut: set[WorkerName] = set()  # workers that others have lost their link to
        self._opening = asyncio.create_task(self._open())

    # --- what its members tell ---------------------------------------------------------------------------------------

    def rpc_ready(self, ready: RpcReady) -> None:
        """A peer's RPC server waits for the main server; told again by an agent that adopts it."""
        known = self._rpc_ready.get(ready.worker)
        if known is not None and known.pid != ready.pid:
            cause = f"the RPC server on {ready.worker} was started anew: what the main server kept there is gone"
            self._fault = self._fault or ProcessEnd(cause=cause, worker=ready.worker)
        self._rpc_ready[ready.worker] = ready

    def link_ready(self, ready: LinkReady) -> None:
        """The way to every peer is open; told again by an agent that adopts the link."""
        if self._link_ready is not None and self._link_ready.pid != ready.pid:
            cause = f"the link of {self._main_worker} was started anew: the main server's connections are cut"
            self._fault = self._fault or ProcessEnd(cause=cause, worker=self._main_worker)
        self._link_ready = ready

    # --- up ----------------------------------------------------------------------------------------------------------

    def too_slow(self, within: timedelta) -> ProcessEnd:
        """What it means that no request could be answered `within` this time: what is missing, and whose fault that is.

        How long a main server loads depends on all members, and the check before on the control plane too.
        """
        if missing := [worker for worker in self._peers if worker not in self._rpc_ready]:
            return too_slow(f"the RPC server on {', '.join(missing)}", within, missing[0])
        if self._main is not None:
            return too_slow("the main server", within)
        return too_slow("the link to its RPC servers", within, self._main_worker if self._link is not None else "")

    async def _open(self) -> None:
        await workflow.wait_condition(lambda: len(self._rpc_ready) == len(self._peers) or self.has_ended())
        if self.has_ended():
            return
        found = await self._check_links()
        self._fault = self._fault or found  # what was told meanwhile still holds
        if self.has_ended():
            return
        self._link = self._start_link()
        await workflow.wait_condition(lambda: self._link_ready is not None or self.has_ended())
        if self._link_ready is not None and not self.has_ended():
            spec = self._spec.model_copy(update={"rpc_ports": self._link_ready.ports})
            self._main = start_main_server(spec, self._lost)

    async def _check_links(self) -> ProcessEnd | None:
        """What is wrong with the ways to the peers, or with their engines; None: nothing."""
        told = [self._rpc_ready[worker] for worker in self._peers]
        peers = tuple(PeerToCheck(gateway=one.gateway, engine=one.engine) for one in told)
        try:
            found: CheckLinksResult = await workflow.execute_activity_method(
                GroupActivities.check_links,
                CheckLinksInput(worker=self._main_worker, peers=peers),
                summary=f"check the ways from {self._main_worker} to {', '.join(self._peers)}",
                **options.on_queue(options.CHECK_LINKS, worker_queue(self._main_worker)),
            )
        except ActivityError as error:
            return self._blamed(end_on(error, self._main_worker), self._main_worker)
        if found.differs:
            return ProcessEnd(cause=found.cause, code="engines_differ", worker=found.differs)
        await workflow.execute_activity_method(
            LinkActivities.keep_links,
            KeepLinksInput(links=found.links),
            summary="keep what the check found",
            **options.TRANSACTION,
        )
        return self._bad_ways(found.links)

    def _bad_ways(self, links: Sequence[WorkerLink]) -> ProcessEnd | None:
        """What is wrong with the first bad way. Where none of several is good, their common end is to blame."""
        bad = [link for link in links if link.problem]
        if not bad:
            return None
        worker = self._main_worker if len(bad) == len(links) > 1 else bad[0].peer
        peers = ", ".join(link.peer for link in bad)
        cause = f"{self._main_worker} cannot use the devices of {peers}: {bad[0].problem}"
        return ProcessEnd(cause=cause, code="link_check_failed", worker=worker)

    def _start_rpc(self, worker: WorkerName) -> HostProcess:
        spec = RpcServerSpec(
            key=self._key("rpc"),
            placement=self._spec.placement,
            worker=worker,
            threads=self._spec.spec.options.threads,
        )
        activity = workflow.start_activity_method(
            GroupActivities.serve_rpc,
            spec,
            summary=f"ggml-rpc-server of {spec.key.instance_id} on {worker}",
            **options.on_queue(options.SERVE, worker_queue(worker)),
        )
        return HostProcess(activity, "the RPC server", worker, self._lost)

    def _start_link(self) -> HostProcess:
        gateways = tuple(self._rpc_ready[worker].gateway for worker in self._peers)
        activity = workflow.start_activity_method(
            GroupActivities.serve_link,
            LinkSpec(key=self._key("link"), worker=self._main_worker, peers=gateways),
            summary=f"link from {self._main_worker} to {', '.join(self._peers)}",
            **options.on_queue(options.SERVE, worker_queue(self._main_worker)),
        )
        return HostProcess(activity, "the link", self._main_worker, self._lost)

    def _key(self, role: str) -> ProcessKey:
        return self._spec.key.model_copy(update={"role": role})

    # --- its end -----------------------------------------------------------------------------------------------------

    @property
    def _processes(self) -> tuple[HostProcess, ...]:
        """Those that were started, in the order in which they are ended."""
        return tuple(one for one in (self._main, self._link, *self._peers.values()) if one is not None)

    @property
    def is_up(self) -> bool:
        """Whether there is a process to be ended."""
        return not self._opening.done() or any(not process.has_ended for process in self._processes)

    @property
    def may_be_left(self) -> tuple[WorkerName, ...]:
        """Where a process may still be that nobody has seen to be gone."""
        return tuple(dict.fromkeys(process.worker for process in self._processes if process.may_be_left))

    def has_ended(self) -> bool:
        """Whether it serves no more: one of its processes is over, or the host of one is gone."""
        return self._fault is not None or self._lost_worker() is not None or any(p.has_ended for p in self._processes)

    def _lost_worker(self) -> WorkerName | None:
        return next((worker for worker in self._spec.placement.workers if worker in self._lost), None)

    async def end(self) -> ProcessEnd:
        """Which member ended and how, once one has. A main server and a link mostly end because of another."""
        await workflow.wait_condition(self.has_ended)
        until = workflow.time() + options.BLAME.total_seconds()
        while True:
            if self._fault is not None:
                return self._fault
            if (lost := self._lost_worker()) is not None:
                return lost_worker(lost, self._lost)
            ends = [(process, await self._end_of(process)) for process in self._processes if process.has_ended]
            told = min(ends, key=self._hearsay)
            if self._hearsay(told) < _RUMOUR or not await self._another_ends(len(ends), until - workflow.time()):
                self._cut.update(end.worker for process, end in ends if end.worker and end.worker != process.worker)
                return told[1]

    async def _another_ends(self, known: int, within: float) -> bool:
        """Whether more than `known` processes end within so many seconds, or a fault shows otherwise."""
        if within <= 0:
            return False

        def more() -> bool:
            ended = sum(process.has_ended for process in self._processes)
            return ended > known or self._fault is not None or self._lost_worker() is not None

        try:
            await workflow.wait_condition(more, timeout=within, timeout_summary="which member was the cause?")
        except TimeoutError:
            workflow.logger.debug("no other process has ended: what is known must do")
            return False
        return True

    def _hearsay(self, told: tuple[HostProcess, ProcessEnd]) -> int:
        """How little an end says of its cause: a peer's own knows best, one that names a peer is next.

        What names the main server's host, a peer may have heard when the link ended for the fault of another.
        """
        process, end = told
        if end.worker in self._peers:
            return 0 if process is self._peers[end.worker] else 1
        return _RUMOUR if end.worker else _RUMOUR + 1

    async def _end_of(self, process: HostProcess) -> ProcessEnd:
        try:
            end = await process.end()
        except ActivityError as error:
            end = self._blamed(end_on(error, process.worker), process.worker)
        cause = f"{process.what} on {process.worker}: {end.cause}"
        if process.worker not in self._peers:  # whose fault it was that it went, it says itself, if it knows
            return end.model_copy(update={"cause": cause})
        # What cannot be healed there can be elsewhere.
        return end.model_copy(update={"cause": cause, "worker": end.worker or process.worker, "retryable": True})

    def _blamed(self, end: ProcessEnd, worker: WorkerName) -> ProcessEnd:
        return end.model_copy(update={"worker": end.worker or worker})

    # --- down --------------------------------------------------------------------------------------------------------

    async def let_requests_end(self, patience: Callable[[], float]) -> None:
        """Waits for the requests in work, for a while; the route must have been withdrawn before."""
        await drain_main_server(self._spec.key, self._main_worker, patience)

    async def stop(self) -> None:
        """Ends every process, and waits for each host's word that it is gone, but not for ever."""
        self._opening.cancel()
        await asyncio.gather(self._opening, return_exceptions=True)
        if self._main is not None:
            await self._main.stop(self._patience(self._main))
        if self._link is not None:
            silent = self._main is not None and not self._main.has_ended  # it has had its time
            await self._link.stop(self._patience(self._link), wait=not silent)
        await asyncio.gather(*(peer.stop(self._patience(peer)) for peer in self._peers.values()))

    def _patience(self, process: HostProcess) -> timedelta:
        return options.CONFIRM_CUT if process.worker in self._cut else options.CONFIRM_END
