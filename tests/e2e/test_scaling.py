"""Models that sleep when nobody asks, and wake for whoever does, in the real system."""

import threading
from collections import Counter
from pathlib import Path

from tests.e2e.system import System, eventually
from tests.e2e.test_load import Load

TOGETHER = 100


def asleep(system: System, name: str) -> None:
    """Waits until no replica of it is left, and nothing is held."""
    eventually(
        lambda: (system.deployment(name) or {}).get("instances") == [] and not system.engine_pids(),
        lambda: f"{system.deployment(name)}\n{system.logs()}",
    )


def test_a_model_falls_asleep_and_wakes_for_all_who_come(system: System, tiny: Path) -> None:
    flags = ("--min-replicas", "0", "--idle-timeout", "5")
    system.cli("deploy", "sleeper", "--model", f"file:{tiny}", *flags)
    asleep(system, "sleeper")
    assert system.claims() == {}
    assert "0 of 0..1" in system.cli("ps").stdout
    assert "it sleeps: the first request starts it" in system.cli("describe", "sleeper").stdout

    outcomes: Counter[str] = Counter()
    client = system.openai(max_retries=0, timeout=60)

    def ask() -> None:
        try:
            answer = client.completions.create(model="sleeper", prompt="a", max_tokens=2)
            outcomes["answered" if answer.choices else "empty"] += 1
        except Exception as error:  # noqa: BLE001 - counted, and shown below
            outcomes[repr(error)] += 1

    threads = [threading.Thread(target=ask) for _ in range(TOGETHER)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    assert outcomes == {"answered": TOGETHER}, f"{outcomes}\n{system.logs()}"
    assert len(system.engine_pids()) == 1
    system.cli("rm", "sleeper")


def test_more_is_asked_than_one_replica_has_slots_for(system: System, tiny: Path) -> None:
    flags = ("--max-replicas", "2", "--slots", "1", "--idle-timeout", "5")
    system.cli("deploy", "popular", "--model", f"file:{tiny}", *flags)
    with Load(system, "popular") as load:  # four at once
        system.running("popular", 2)
        before = load.answered
        eventually(lambda: load.answered > before + 20, lambda: load.outcomes)
    (kept,) = system.running("popular", 1)
    assert set(load.outcomes) == {"answered"}, load.outcomes
    found = system.deployment("popular")
    assert found is not None
    assert (found["state"], found["wanted"], found["replicas"], found["generation"]) == ("running", 1, 1, 1)
    assert kept["state"] == "running"
    system.cli("rm", "popular")
