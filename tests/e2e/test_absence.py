"""Agents and hosts that go and come back: two real agents beside the system's own, killed, stopped, started again."""

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e.system import STOKER, System, eventually, running_system
from worker_agent.processes import MARK

GRACE = 15
NAMES = ("e1", "e2")


class Agents:
    """The agents, each with a data folder of its own."""

    def __init__(self, system: System, folder: Path, models: Path) -> None:
        self.system = system
        self._folder, self._models = folder, models
        self._agents: dict[str, subprocess.Popen[str]] = {}

    def start(self, name: str) -> None:
        """Starts the agent, for the first time or again."""
        environment = {
            **self.system.environment,
            "STOKER_DATA_DIR": str(self._folder / name),
            "STOKER_TEMPORAL__ADDRESS": f"127.0.0.1:{self.system.temporal_port}",
        }
        token = self.system.folder / "join-token"
        command = [*STOKER, "worker", "--name", name, "--server", self.system.url, "--label", "pool=edge"]
        command += ["--offer", "cpu=2GiB", "--model-dir", str(self._models), "--join-token-file", str(token)]
        with (self._folder / f"{name}.log").open("a") as out:
            self._agents[name] = subprocess.Popen(
                command, env=environment, stdout=out, stderr=subprocess.STDOUT, text=True, start_new_session=True
            )

    def signal(self, name: str, number: signal.Signals) -> None:
        """To the agent alone."""
        self._agents[name].send_signal(number)
        if number is signal.SIGKILL:
            self._agents[name].wait()

    def engines(self, name: str) -> list[int]:
        """The living engines that this agent or one before it started."""
        return sorted(
            process.pid
            for process in psutil.process_iter()
            if _mark_of(process).startswith(f"{self._folder / name}{os.sep}") and "/processes/" in _mark_of(process)
        )

    def kill_host(self, name: str) -> None:
        """The agent and all that it started, at once."""
        agent = psutil.Process(self._agents[name].pid)
        doomed = [agent, *agent.children(recursive=True)]
        doomed += [p for p in psutil.process_iter() if _mark_of(p).startswith(f"{self._folder / name}{os.sep}")]
        for process in doomed:
            if psutil.pid_exists(process.pid):
                process.kill()
        self._agents[name].wait()

    def state(self, name: str) -> str:
        """The worker's, as administrators see it."""
        with self.system.api() as api:
            found = api.get(f"/workers/{name}")
        return str(found.json().get("state")) if found.is_success else "not there"

    def ready(self, *names: str) -> None:
        """Waits until all of them are."""
        eventually(lambda: all(self.state(name) == "ready" for name in names), self.logs)

    def logs(self) -> str:
        """What all said, for a failed test."""
        return "\n".join(
            [
                self.system.logs(),
                *(f"== {path.name}\n{path.read_text()[-3000:]}" for path in self._folder.glob("*.log")),
            ]
        )

    def stop(self) -> None:
        """Ends the agents, and whatever they left on purpose."""
        for name, agent in self._agents.items():
            agent.kill()
            agent.wait()
            for process in psutil.process_iter():
                if _mark_of(process).startswith(f"{self._folder / name}{os.sep}"):
                    process.kill()


def _mark_of(process: psutil.Process) -> str:
    try:
        alive = process.status() != psutil.STATUS_ZOMBIE
        return process.environ().get(MARK, "") if alive else ""
    except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):
        return ""


@pytest.fixture(scope="module")
def agents(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Iterator[Agents]:
    """The system, with less patience than usual, and the agents. Each test leaves them as it found them."""
    folder = tmp_path_factory.mktemp("absence")
    grace = {"STOKER_WORKER_GRACE": str(GRACE)}
    with running_system(folder / "up", "--model-dir", str(tiny.parent), environment=grace) as system:
        running = Agents(system, folder, tiny.parent)
        try:
            for name in NAMES:
                running.start(name)
            running.ready(*NAMES)
            system.cli("deploy", "tiny", "--model", f"file:{tiny}", "--selector", "pool=edge")
            yield running
        finally:
            running.stop()


class Asking:
    """Asks the model all the time, while the block lasts."""

    def __init__(self, system: System) -> None:
        self._system, self._over = system, threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self.answered = 0
        self.failures: list[str] = []

    def _ask(self) -> None:
        client = self._system.openai(max_retries=0, timeout=30)
        while not self._over.is_set():
            try:
                client.completions.create(model="tiny", prompt="a", max_tokens=1)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is no answer
                self.failures.append(f"after {self.answered} answers: {error!r}")
            else:
                self.answered += 1

    def __enter__(self) -> "Asking":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def instance(agents: Agents) -> tuple[dict[str, Any], str, str]:
    """The model's one instance, its worker, and the other one."""
    (found,) = agents.system.running("tiny")
    here = str(found["placement"]["worker"])
    (there,) = set(NAMES) - {here}
    return found, here, there


def claims_are(agents: Agents, *workers: str) -> None:
    """Waits until exactly these workers have claims."""
    eventually(
        lambda: sorted(name.partition("/")[0] for name in agents.system.claims()) == sorted(workers),
        lambda: f"{agents.system.claims()}\n{agents.logs()}",
    )


def moved(agents: Agents, before: dict[str, Any], to: str) -> dict[str, Any]:
    """Waits until the instance runs there, as a later incarnation."""

    def look() -> dict[str, Any] | None:
        found = agents.system.deployment("tiny")
        now = found["instances"][0] if found and found["instances"] else None
        if now is None or now["state"] != "running" or now["incarnation"] <= before["incarnation"]:
            return None
        assert now["placement"]["worker"] == to
        return dict(now)

    return eventually(look, lambda: f"{agents.system.deployment('tiny')}\n{agents.logs()}")


def health(agents: Agents) -> dict[str, Any]:
    """The cluster's."""
    with agents.system.api() as api:
        found: dict[str, Any] = api.get("/health").raise_for_status().json()
    return found


def test_an_agent_is_killed_and_comes_back(agents: Agents) -> None:
    before, here, there = instance(agents)
    with Asking(agents.system) as asking:
        agents.signal(here, signal.SIGKILL)
        eventually(lambda: asking.answered > 5, agents.logs)
        agents.start(here)
        eventually(lambda: _says(agents, here, "process_found"), agents.logs)
        agents.ready(here)
        so_far = asking.answered
        eventually(lambda: asking.answered > so_far + 5, agents.logs)
    assert asking.failures == []
    after, *_ = instance(agents)
    assert (after["pid"], after["incarnation"]) == (before["pid"], before["incarnation"])
    claims_are(agents, here)
    assert (agents.engines(here), agents.engines(there)) == ([after["pid"]], [])


def _says(agents: Agents, name: str, event: str) -> bool:
    return event in (agents.logs().partition(f"== {name}.log")[2])


def test_a_host_dies(agents: Agents) -> None:
    before, here, there = instance(agents)
    agents.kill_host(here)
    assert not agents.system.answers("tiny"), "its engine is gone, and there is no other"
    after = moved(agents, before, there)
    eventually(lambda: agents.system.answers("tiny"), agents.logs)
    assert health(agents)["status"] == "ok", "one that dies is no alarm"
    claims_are(agents, here, there)  # nobody has seen its process end
    agents.start(here)
    agents.ready(here)
    claims_are(agents, there)
    assert (agents.engines(here), agents.engines(there)) == ([], [after["pid"]])


def test_an_engine_that_outlived_its_agents_absence_is_ended_when_it_returns(agents: Agents) -> None:
    before, here, there = instance(agents)
    agents.signal(here, signal.SIGKILL)
    assert agents.system.answers("tiny"), "its engine lives, so it is asked"
    after = moved(agents, before, there)
    eventually(lambda: agents.system.answers("tiny"), agents.logs)
    assert agents.engines(here) == [before["pid"]], "nobody can end it now"
    claims_are(agents, here, there)
    agents.start(here)
    eventually(lambda: not agents.engines(here), agents.logs)
    agents.ready(here)
    assert _says(agents, here, "away_for_long")
    claims_are(agents, there)
    assert agents.engines(there) == [after["pid"]]
    assert instance(agents)[0]["incarnation"] == after["incarnation"]


def test_most_are_silent_at_once(agents: Agents) -> None:
    before, here, there = instance(agents)
    claimed = agents.system.claims()
    with Asking(agents.system) as asking:
        for name in NAMES:
            agents.signal(name, signal.SIGSTOP)
        try:
            alarm = eventually(lambda: health(agents)["alarms"], agents.logs)
            # Longer than the grace: were it not for the alarm, all would have moved by now.
            eventually(lambda: health(agents)["alarms"] and _seen_for(agents, here) > 2 * GRACE, agents.logs)
            eventually(lambda: agents.state(there) == "unreachable", agents.logs)
            shown = agents.system.cli("workers", "-o", "json")
            listed = {worker["name"]: worker["state"] for worker in json.loads(shown.stdout)}
        finally:
            for name in NAMES:
                agents.signal(name, signal.SIGCONT)
    assert [one["code"] for one in alarm] == ["workers_silent_at_once"]
    assert "2 of 3 workers are silent at once (e1, e2)" in alarm[0]["message"]
    assert shown.stderr.startswith("ALARM workers_silent_at_once: 2 of 3 workers")
    assert (listed[here], listed[there]) == ("unreachable", "unreachable")
    agents.ready(*NAMES)
    eventually(lambda: health(agents) == {"status": "ok", "alarms": [], "workers_lost": []}, agents.logs)
    assert asking.failures == []
    assert asking.answered > 0
    after, *_ = instance(agents)
    assert (after["pid"], after["incarnation"]) == (before["pid"], before["incarnation"])
    assert agents.system.claims() == claimed
    assert (agents.engines(here), agents.engines(there)) == ([after["pid"]], [])


def _seen_for(agents: Agents, name: str) -> float:
    """Seconds since the worker's last report."""
    with agents.system.api() as api:
        answer = api.get(f"/workers/{name}").raise_for_status()
    return (datetime.now(UTC) - datetime.fromisoformat(answer.json()["seen_at"])).total_seconds()
