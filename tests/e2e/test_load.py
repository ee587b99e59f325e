"""Scaling and deleting while requests keep coming: what was accepted is answered, or fails with the right error."""

import threading
from collections import Counter
from pathlib import Path

import openai

from tests.e2e.system import System, eventually

CLIENTS = 4


class Load:
    """Clients that ask without a pause, streamed and not, and count what came of it."""

    def __init__(self, system: System, model: str) -> None:
        self._system, self._model = system, model
        self._stop = threading.Event()
        self.outcomes: Counter[str] = Counter()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(CLIENTS)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    @property
    def answered(self) -> int:
        """Requests that were answered whole."""
        return self.outcomes["answered"]

    def _ask(self, number: int) -> None:
        client = self._system.openai(max_retries=0, timeout=30)
        while not self._stop.is_set():
            self.outcomes[self._outcome(client, streamed=number % 2 == 0)] += 1

    def _outcome(self, client: openai.OpenAI, *, streamed: bool) -> str:
        messages = [{"role": "user", "content": "a b c"}]
        try:
            if streamed:
                chunks = list(
                    client.chat.completions.create(model=self._model, messages=messages, max_tokens=32, stream=True)
                )
                whole = chunks[-1].choices[0].finish_reason is not None
            else:
                answer = client.chat.completions.create(model=self._model, messages=messages, max_tokens=32)
                whole = answer.choices[0].finish_reason is not None
        except openai.APIStatusError as error:
            return f"{error.status_code} {error.code}"
        except openai.APIError as error:
            return f"{type(error).__name__}: {error}"
        return "answered" if whole else "cut short"


def test_scaling_under_load_loses_no_request(system: System, tiny: Path) -> None:
    system.cli("deploy", "busy", "--model", f"file:{tiny}")
    with Load(system, "busy") as load:
        for replicas in (3, 1):
            before = load.answered
            system.cli("scale", "busy", str(replicas))
            system.running("busy", replicas)
            eventually(lambda so_far=before: load.answered > so_far + 20, lambda: load.outcomes)  # type: ignore[misc]
    assert set(load.outcomes) == {"answered"}, load.outcomes
    assert len(system.engine_pids()) == 1
    system.cli("rm", "busy")


def test_deleting_under_load_ends_what_was_begun_and_refuses_the_rest(system: System, tiny: Path) -> None:
    system.cli("deploy", "doomed", "--model", f"file:{tiny}")
    with Load(system, "doomed") as load:
        eventually(lambda: load.answered > 20, lambda: load.outcomes)
        system.cli("rm", "doomed")
        eventually(lambda: load.outcomes["404 model_not_found"] > 5, lambda: load.outcomes)
    wrong = set(load.outcomes) - {"answered", "404 model_not_found", "503 model_loading", "503 model_stopped"}
    assert not wrong, load.outcomes
    assert system.claims() == {}
    assert system.engine_pids() == []


def test_rolling_under_load_loses_no_request_and_cuts_no_stream(system: System, tiny: Path) -> None:
    system.cli("deploy", "rolls", "--model", f"file:{tiny}", "--replicas", "2")
    with Load(system, "rolls") as load:
        system.cli("deploy", "rolls", "--model", f"file:{tiny}", "--replicas", "2", "--slots", "2")
        system.cli("rollout", "status", "rolls", "--wait")
        so_far = load.answered
        eventually(lambda: load.answered > so_far + 20, lambda: load.outcomes)
    assert set(load.outcomes) == {"answered"}, load.outcomes
    assert {instance["generation"] for instance in system.running("rolls", 2)} == {2}
    system.cli("rm", "rolls")


def test_a_wrong_file_is_rolled_back_and_no_client_notices(system: System, tiny: Path) -> None:
    wrong = tiny.with_name("wrong.gguf")
    wrong.write_bytes(tiny.read_bytes().replace(b"output_norm.weight", b"output_none.weight", 1))
    system.cli("deploy", "safe", "--model", f"file:{tiny}")
    [before] = system.running("safe")
    with Load(system, "safe") as load:
        failed = system.cli("deploy", "safe", "--model", f"file:{wrong}", check=False)
        assert failed.returncode == 1
        assert "generation 2 was rolled back" in failed.stderr
        [after] = system.running("safe")
        so_far = load.answered
        eventually(lambda: load.answered > so_far + 20, lambda: load.outcomes)
    assert set(load.outcomes) == {"answered"}, load.outcomes
    assert (after["id"], after["pid"]) == (before["id"], before["pid"]), "it never stopped"
    history = system.cli("rollout", "history", "safe").stdout
    assert "rolled back" in history
    system.cli("rm", "safe")
