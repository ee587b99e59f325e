"""A user's first hour: deploy, ask with the official client, scale, see why something waits, remove."""

import json
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from stoker.domain.units import MIB
from tests.e2e.system import System, eventually

QUESTION = [{"role": "user", "content": "Name three fruits."}]


@pytest.fixture(scope="module")
def smol(system: System, smollm2: Path) -> Iterator[str]:
    """The real model, deployed by the command line."""
    system.cli("deploy", "smol", "--model", f"file:{smollm2}")
    yield "smol"
    system.cli("rm", "smol")
    assert system.claims() == {}


class TestTheOfficialClient:
    """openai-python, unchanged: another base URL and another key."""

    def test_lists_models(self, system: System, smol: str) -> None:
        client = system.openai()
        assert [(model.id, model.object, model.owned_by) for model in client.models.list()] == [
            (smol, "model", "stoker")
        ]
        assert client.models.retrieve(smol).id == smol

    def test_chats(self, system: System, smol: str) -> None:
        answer = system.openai().chat.completions.create(model=smol, messages=QUESTION, temperature=0, max_tokens=48)
        assert answer.model == smol
        assert "banana" in (answer.choices[0].message.content or "").lower()
        assert answer.usage is not None
        assert answer.usage.completion_tokens > 3

    def test_chats_streamed_as_not_streamed(self, system: System, smol: str) -> None:
        client = system.openai()
        asked = {"model": smol, "messages": QUESTION, "temperature": 0, "max_tokens": 32}
        whole = client.chat.completions.create(**asked).choices[0].message.content
        chunks = list(client.chat.completions.create(**asked, stream=True))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole
        assert all(chunk.usage is None for chunk in chunks)
        assert chunks[-1].choices[0].finish_reason in ("stop", "length")

    def test_counts_tokens_when_asked(self, system: System, smol: str) -> None:
        stream = system.openai().chat.completions.create(
            model=smol, messages=QUESTION, max_tokens=8, stream=True, stream_options={"include_usage": True}
        )
        chunks = list(stream)
        assert chunks[-1].choices == []
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == 8
        assert all(chunk.usage is None for chunk in chunks[:-1])

    def test_completes(self, system: System, smol: str) -> None:
        answer = system.openai().completions.create(model=smol, prompt="One, two, three,", max_tokens=8, temperature=0)
        assert "four" in answer.choices[0].text
        pieces = system.openai().completions.create(
            model=smol, prompt="One, two, three,", max_tokens=8, temperature=0, stream=True
        )
        assert "".join(piece.choices[0].text for piece in pieces) == answer.choices[0].text

    def test_a_wrong_key_and_an_unknown_model(self, system: System, smol: str) -> None:
        with pytest.raises(openai.AuthenticationError):
            system.openai(api_key="sk-wrong").models.list()
        with pytest.raises(openai.NotFoundError) as refused:
            system.openai().chat.completions.create(model="nobody", messages=QUESTION)
        assert refused.value.code == "model_not_found"

    def test_a_user_key_opens_v1_only_and_nothing_once_revoked(self, system: System, smol: str) -> None:
        made = json.loads(system.cli("keys", "create", "for tests", "-o", "json").stdout)
        client = system.openai(api_key=made["key"], max_retries=0)
        eventually(lambda: client.models.list().data, lambda: "the new key opens /v1")
        with system.api() as api:
            forbidden = api.get("/deployments", headers={"authorization": f"Bearer {made['key']}"})
        assert forbidden.status_code == 403
        assert forbidden.json()["code"] == "forbidden"
        system.cli("keys", "revoke", made["id"])

        def refused() -> bool:
            try:
                client.models.list()
            except openai.AuthenticationError:
                return True
            return False

        eventually(refused, lambda: "the revoked key opens nothing")


def test_embeddings(system: System, tiny: Path) -> None:
    system.cli("deploy", "embedder", "--model", f"file:{tiny}", "--embeddings")
    client = system.openai()
    one = client.embeddings.create(model="embedder", input="a b c").data[0].embedding
    both = client.embeddings.create(model="embedder", input=["a b c", "c"]).data
    assert len(one) > 0
    assert both[0].embedding == pytest.approx(one, abs=1e-3)
    system.cli("rm", "embedder")
    assert system.deployment("embedder") is None


def test_the_command_line_shows_what_there_is(system: System, smol: str) -> None:
    assert smol in system.cli("ps").stdout
    described = json.loads(system.cli("describe", smol, "-o", "json").stdout)
    assert described["state"] == "running"
    assert described["model_info"]["architecture"] == "llama"
    placement = described["instances"][0]["placement"]
    assert placement["claimed_bytes"] == sum(system.claims().values())
    assert placement["worker"] in system.cli("why", smol).stdout
    assert "listening" in system.cli("logs", smol, "--tail", "500").stdout
    assert "banana" in system.cli("chat", smol, "Name three fruits.", "--temperature", "0").stdout.lower()
    assert placement["worker"] in system.cli("workers").stdout


def test_what_was_estimated_is_what_the_engine_took(system: System, smol: str) -> None:
    (instance,) = system.running(smol)
    (host,) = instance["memory"]
    estimated, measured = host["estimated"], host["measured"]
    for part in ("weights_bytes", "cache_bytes"):
        assert measured[part] == pytest.approx(estimated[part], abs=0.01 * MIB), part
    assert -0.05 < host["error_ratio"] <= 0.02
    assert measured["total_bytes"] > measured["weights_bytes"]

    described = system.cli("describe", smol).stdout.splitlines()
    (at,) = (number for number, line in enumerate(described) if line.split()[:2] == ["host", "estimated"])
    assert described[at - 1].split()[:3] == ["DEVICE", "MEMORY", "WEIGHTS"]
    above, below = (line.split() for line in described[at : at + 2])
    assert below[0] == "measured"
    assert below[1:5] == above[2:6], "weights and cache, each a number and its unit"
    assert below[-1] == f"{host['error_ratio']:+.2%}"

    labels = f'deployment="{smol}",device="host",instance="{instance["id"]}",worker="{instance["placement"]["worker"]}"'
    with system.api() as api:
        lines = api.get(f"{system.url}/metrics").text.splitlines()
    (line,) = (line for line in lines if line.startswith("stoker_estimate_error_ratio{"))
    assert line.startswith(f"stoker_estimate_error_ratio{{{labels}}} ")
    assert float(line.rpartition(" ")[2]) == pytest.approx(host["error_ratio"])


def test_unknown_things_exit_3(system: System) -> None:
    for command in (["describe", "nobody"], ["why", "nobody"], ["scale", "nobody", "2"], ["logs", "nobody"]):
        done = system.cli(*command, check=False)
        assert done.returncode == 3, (command, done.stderr)
        assert "nobody" in done.stderr


def test_health_and_metrics(system: System, smol: str) -> None:
    with system.api() as api:
        assert api.get(f"{system.url}/livez").json() == {"status": "ok"}
        ready = api.get(f"{system.url}/readyz")
        assert (ready.status_code, ready.json()["status"]) == (200, "ok")
        assert set(ready.json()["checks"]) == {"database", "temporal", "control_plane"}
        system.openai().completions.create(model=smol, prompt="a", max_tokens=2)
        metrics = api.get(f"{system.url}/metrics").text
    assert f'stoker_requests_total{{model="{smol}",status_class="2xx"}}' in metrics
    assert "stoker_build_info" in metrics
