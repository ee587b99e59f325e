"""How the mesh's programs run where the system gives them little."""

import asyncio
import resource

import pytest

from worker_agent.mesh.programs import open_file_limit, run_program


async def program(stop: asyncio.Event) -> int:
    assert not stop.is_set()
    return 7


@pytest.mark.parametrize("refusal", [ValueError("current limit exceeds maximum limit"), PermissionError("not allowed")])
def test_a_system_that_gives_no_more_open_files_is_lived_with(
    refusal: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def refuse(which: int, limits: tuple[int, int]) -> None:
        asked.append(limits)
        raise refusal

    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert run_program(program) == 7
    assert asked == [(16_384, resource.RLIM_INFINITY)]
    assert open_file_limit() == 256


def test_no_limit_is_no_small_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert open_file_limit() == 16_384
