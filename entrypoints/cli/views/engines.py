"""How engines of this machine look: as data, and as a table."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from entrypoints.cli.output import cell, table
from stoker.domain.units import format_bytes
from worker_agent.engine_choice import BUNDLED, ChosenEngine
from worker_agent.engine_store import EngineStore, InstalledEngine
from worker_agent.engines import BundledEngine, NativeEngine


def installed_data(engine: InstalledEngine) -> dict[str, Any]:
    """An installed engine for scripts."""
    data = engine.manifest.model_dump(mode="json")
    return {"name": data.pop("name"), "kind": "native", "path": str(engine.folder), "size": engine.size, **data}


def engines_data(chosen: ChosenEngine, store: EngineStore) -> list[dict[str, Any]]:
    """All engines: an administrator's own, the installed, the damaged, the bundled. One is `used`, with `reason`."""
    found: list[dict[str, Any]] = []
    if isinstance(chosen.engine, NativeEngine) and store.find(chosen.name) is None:
        own = chosen.engine.describe()
        found.append(
            {
                "name": chosen.name,
                "kind": "native",
                "path": str(chosen.engine.path.parent),
                "version": own.version,
                "rpc_protocol": own.rpc_protocol,
                "backend": None,
            }
        )
    found += [installed_data(engine) for engine in store.installed()]
    found += [
        {"name": name, "kind": "native", "path": str(store.folder / name), "version": None, "rpc_protocol": None}
        for name in store.damaged()
    ]
    bundled = BundledEngine().describe()
    found.append(
        {
            "name": BUNDLED,
            "kind": "bundled",
            "path": None,
            "version": bundled.version,
            "rpc_protocol": None,
            "backend": "cpu",
        }
    )
    for engine in found:
        used = engine["name"] == chosen.name
        engine["used"] = used
        engine["reason"] = chosen.reason if used else None
        engine["problem"] = chosen.passed_over.get(engine["name"])
        if used:
            engine["devices"] = sorted(chosen.engine.device_names)
    return found


def engines_table(engines: Sequence[dict[str, Any]]) -> Table:
    """A row an engine; the one in use is marked."""
    made = table("", "NAME", "BACKEND", "VERSION", "RPC", "SIZE", "PATH")
    for engine in engines:
        size = format_bytes(engine["size"]) if "size" in engine else "-"
        backend = "unusable" if engine["problem"] else engine.get("backend") or "-"
        texts = ["*" if engine["used"] else "", engine["name"], backend, engine["version"] or "-"]
        texts += [engine["rpc_protocol"] or "-", size, engine["path"] or "in this Python environment"]
        made.add_row(*(cell(text) for text in texts))
    return made
