"""A second machine joins with a one-time token, and is removed: its own data folder, an address of its own."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from stoker.certificates import CertificateFacts, fingerprint_of
from stoker.identity_folder import IdentityFolder
from tests.e2e.system import STOKER, System, eventually

ENDS_WITHIN_SECONDS = 30.0


@dataclass
class Agent:
    """A running `stoker worker`."""

    name: str
    folder: Path
    process: subprocess.Popen[str]

    @property
    def mesh(self) -> IdentityFolder:
        """Its identity."""
        return IdentityFolder(self.folder / "worker" / self.name / "mesh", f"worker/{self.name}")

    def log(self) -> str:
        """What it said."""
        return (self.folder / "agent.log").read_text()

    def certificate(self, system: System) -> CertificateFacts:
        """Waits for one that can be used."""
        return eventually(self.mesh.facts, lambda: f"{self.log()}\n{system.logs()}")


@contextmanager
def agent(system: System, folder: Path, name: str, token: str, *arguments: str) -> Iterator[Agent]:
    """An agent on a data folder of its own, which is given the token by standard input."""
    folder.mkdir()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("STOKER_")}
    environment |= {"STOKER_DATA_DIR": str(folder), "TEMPORAL_ADDRESS": f"127.0.0.1:{system.temporal_port}"}
    command = [*STOKER, "worker", "--server", system.url, "--name", name, "--address", "127.0.0.2"]
    command += ["--engine", "bundled", "--join-token-file", "-", *arguments]
    with (folder / "agent.log").open("w") as log:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, text=True
        )
    try:
        assert process.stdin is not None
        process.stdin.write(f"{token}\n")
        process.stdin.close()
        yield Agent(name, folder, process)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()


def seen(system: System, name: str) -> dict[str, object] | None:
    """The worker as administrators see it, or None."""
    workers = json.loads(system.cli("workers", "-o", "json").stdout)
    return next((worker for worker in workers if worker["name"] == name), None)


@pytest.fixture
def token(system: System) -> str:
    """For one machine."""
    return system.cli("workers", "token", "--ttl", "10m", "--label", "rack=7").stdout.strip()


def test_a_machine_joins_is_known_to_the_others_and_is_removed(system: System, tmp_path: Path, token: str) -> None:
    own = eventually(lambda: next((system.folder / "worker").glob("*/mesh/certificate.pem"), None), system.logs).parent
    authority = fingerprint_of((own / "authority.pem").read_text())
    server = IdentityFolder(system.folder / "server" / "mesh", "server")
    assert server.facts() is not None
    assert server.fingerprint() == authority

    with agent(system, tmp_path / "second", "second", token, "--label", "rack=0", "--label", "disk=ssd") as second:
        facts = second.certificate(system)
        assert facts.holder == "worker/second"
        assert second.mesh.fingerprint() == authority
        worker = seen(system, "second")
        assert worker is not None
        assert worker["labels"] == {"rack": "7", "disk": "ssd"}, "the administrator's come first"
        secrets = (token, (second.mesh.path / "key.pem").read_text().splitlines()[1])
        assert not [secret for secret in secrets if secret in second.log() + system.logs()]
        assert "used by second" in system.cli("workers", "tokens").stdout

        with agent(system, tmp_path / "third", "third", token) as third:
            assert third.process.wait(60) == 2, third.log()
            assert "this join token was used by worker 'second'" in third.log()
        assert seen(system, "third") is None

        assert "second: removed" in system.cli("workers", "remove", "second").stdout
        assert seen(system, "second") is None

        def is_out() -> bool:
            known = [folder / "revoked.json" for folder in (own, server.path)]
            return all(path.exists() and facts.serial in json.loads(path.read_text()) for path in known)

        eventually(is_out, system.logs, seconds=30)
        eventually(lambda: "worker_removed" in second.log(), second.log, seconds=30)
        eventually(lambda: second.mesh.facts() is None, second.log)
        assert second.process.poll() is None, "whoever starts ended processes again would let it join at once"
        second.process.send_signal(signal.SIGTERM)
        assert second.process.wait(ENDS_WITHIN_SECONDS) == 0, second.log()


def test_a_token_of_another_cluster_is_shown_to_nobody(system: System, tmp_path: Path, token: str) -> None:
    stranger = token.replace(token.removeprefix("st-join-")[:64], "ab" * 32)
    with agent(system, tmp_path / "stray", "stray", stranger) as stray:
        assert stray.process.wait(60) == 2, stray.log()
        said = stray.log()
    assert f"the token names the authority {'ab' * 32}, the server's is " in said
    assert seen(system, "stray") is None
