"""The kinds of processes that one host runs, wired."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import httpx

from activities.ports import MainServerSpec, ProcessKey
from worker_agent.engine_metrics import EngineMetrics
from worker_agent.engines import EngineProgram
from worker_agent.link_role import LinkRole
from worker_agent.link_watch import FirstFault, LinkWatch
from worker_agent.main_role import MainServerRole
from worker_agent.mesh.grants import Grants
from worker_agent.records import RecordStore
from worker_agent.roles import Role
from worker_agent.rpc_role import RpcServerRole
from worker_agent.stall_watch import StallWatch


def host_roles(
    *,
    engine: EngineProgram,
    client: httpx.AsyncClient,
    arguments: Callable[[MainServerSpec], Sequence[str]],
    engine_key: Callable[[ProcessKey], str],
    records: RecordStore,
    links: Path,
    mesh: Path,
    stall_timeout: float,
    stop_seconds: tuple[float, float, float],
) -> Mapping[str, Role]:
    """Each kind by the name of its role. `records`: of the host's processes; `links`: the folder of what links must
    know; `mesh`: of the host's identity.

    `client`: its base address is the engines' host. `stop_seconds`: of main servers.
    """
    grants = Grants(mesh)
    main = MainServerRole(
        engine,
        client,
        FirstFault(StallWatch(EngineMetrics(client, engine_key), stall_timeout), LinkWatch(records)),
        arguments=arguments,
        engine_key=engine_key,
        grants=grants,
        stop_seconds=stop_seconds,
    )
    return {"main": main, "rpc": RpcServerRole(engine, grants), "link": LinkRole(links, mesh)}
