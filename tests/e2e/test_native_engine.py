"""The whole system on the native engine: it is chosen by itself, reported, and serves."""

import json
from pathlib import Path

import psutil

from tests.e2e.system import running_system
from worker_agent.engine_store import InstalledEngine


def test_an_installed_engine_is_used_and_reported(
    native_engine: InstalledEngine, smollm2: Path, tmp_path: Path
) -> None:
    store = tmp_path / "cache" / "stoker" / "engines"  # only this engine: the machine may have others
    store.mkdir(parents=True)
    (store / native_engine.manifest.name).symlink_to(native_engine.folder)
    environment = {"STOKER_WORKER__ENGINE": "auto", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    with running_system(tmp_path / "s", "--model-dir", str(smollm2.parent), environment=environment) as system:
        (worker,) = json.loads(system.cli("workers", "-o", "json").stdout)
        manifest = native_engine.manifest
        assert worker["engine"] == {
            "kind": "native",
            "version": manifest.version,
            "rpc_protocol": manifest.rpc_protocol,
        }
        system.cli("deploy", "smol", "--model", f"file:{smollm2}")
        (pid,) = system.engine_pids()
        assert psutil.Process(pid).exe() == str(native_engine.program("llama-server"))
        answer = system.openai().chat.completions.create(
            model="smol", messages=[{"role": "user", "content": "Name three fruits."}], temperature=0, max_tokens=48
        )
        assert "banana" in (answer.choices[0].message.content or "").lower()
        system.cli("rm", "smol")
        assert system.engine_pids() == []
