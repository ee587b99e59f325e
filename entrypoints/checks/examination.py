"""All checks that make sense here, at the same time."""

import asyncio
from collections.abc import Awaitable, Callable

from entrypoints.checks import cluster, host, services
from entrypoints.checks.findings import Finding, Verdict, wrong
from entrypoints.cli.access import Access
from entrypoints.cli.client import StokerClient
from entrypoints.cli.errors import CliError
from stoker.settings import Settings

LONGEST_SECONDS = 90.0
"""Of one check: an engine may answer slowly while a GPU's driver starts."""


async def examine(settings: Settings, access: Access, *, named: bool) -> list[Finding]:
    """What was found, in the order in which it is to be read. `named`: somebody chose this server.

    Temporal and the database are looked at where the server is on this machine: elsewhere, its API tells of them.
    """

    async def fleet() -> list[Finding]:
        async with StokerClient(access) as client:
            try:
                return await cluster.check_fleet(client)
            except CliError as error:
                return cluster.refused(error)

    api = await _carefully("API", lambda: cluster.check_api(access, named=named))
    answers = any(each.check == "API" and "answers at" in each.found for each in api)
    looks: list[Awaitable[list[Finding]]] = [
        _blocking("python", host.check_python),
        _blocking("folders", lambda: host.check_folders(settings)),
        _blocking("engine", lambda: host.check_engine(settings)),
        _blocking("gateway", lambda: host.check_gateways(settings)),
    ]
    if access.url == settings.api_url:
        looks += [
            _blocking("ports", lambda: host.check_ports(settings)),
            _carefully("Temporal", lambda: services.check_temporal(settings, running=answers)),
            _blocking("database", lambda: services.check_database(settings, running=answers)),
        ]
    found = await asyncio.gather(*looks)
    told = [finding for findings in found for finding in findings] + api
    return told + (await _carefully("cluster", fleet) if answers else [])


def _blocking(check: str, look: Callable[[], list[Finding]]) -> Awaitable[list[Finding]]:
    return _carefully(check, lambda: asyncio.to_thread(look))


async def _carefully(check: str, look: Callable[[], Awaitable[list[Finding]]]) -> list[Finding]:
    """What the check found. One that cannot be made must not hide what the others found."""
    try:
        async with asyncio.timeout(LONGEST_SECONDS):
            return await look()
    except TimeoutError:
        advice = "see what keeps this machine busy, then try again"
        return [wrong(check, found=f"no result within {LONGEST_SECONDS:g} s", advice=advice)]
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told
        advice = "this is a fault of Stoker: please report it"
        return [wrong(check, found=f"it could not be looked at: {type(error).__name__}: {error}", advice=advice)]


def is_wrong(finding: Finding) -> bool:
    """Whether it makes `stoker doctor` fail."""
    return finding.verdict is Verdict.WRONG
