"""How long from POST to running, when 20 deployments are created at once; and how much of it is the engine's own load.

The whole system runs as `stoker up` does, on this machine, with a 5 MB model that is written here. Ends with one JSON
line: seconds from POST to running (p50, p99), the engine's own load (p50, p99), its share of the whole, and what is
left for Stoker. One deployment alone is measured first: there nothing competes for the cores.
"""

import concurrent.futures
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from tests.builders import write_tiny_llama
from tests.e2e.system import System, running_system

DEPLOYMENTS = 20
MODEL_BYTES = 5_000_000
RUNNING_WITHIN_SECONDS = 300.0


def main() -> None:
    """Measures, and prints one JSON line at the end."""
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch) / "model.gguf"
        size = write_tiny_llama(model, size_hint=MODEL_BYTES).stat().st_size
        with running_system(Path(scratch) / "data", "--model-dir", scratch) as system:
            alone = [measure(system, model, "alone")]
            system.cli("rm", "alone")
            names = [f"bench-{number}" for number in range(DEPLOYMENTS)]
            with concurrent.futures.ThreadPoolExecutor(DEPLOYMENTS) as pool:
                together = list(pool.map(lambda name: measure(system, model, name), names))
    result = {
        "benchmark": "deploy",
        "model_bytes": size,
        "deployments": DEPLOYMENTS,
        "cores": os.cpu_count(),
        "alone": summary(alone),
        "together": summary(together),
    }
    print(json.dumps(result))


def measure(system: System, model: Path, name: str) -> tuple[float, float]:
    """Seconds from POST to running as the API shows it, and seconds of the engine's own load."""
    headers = {"authorization": f"Bearer {system.admin_key}"}
    body = {"name": name, "model": f"file:{model}", "options": {"context_length": 512, "slots": 1}}
    with httpx.Client(base_url=f"{system.url}/api/v1", headers=headers, timeout=RUNNING_WITHIN_SECONDS) as api:
        began = time.monotonic()
        api.post("/deployments", json=body).raise_for_status()
        with api.stream("GET", f"/deployments/{name}", params={"watch": True}) as events:
            for line in events.iter_lines():
                if line.startswith("data: ") and (found := running(json.loads(line.removeprefix("data: ")))):
                    return time.monotonic() - began, found["load_seconds"]
    raise RuntimeError(f"the watch of {name} ended before it ran")


def running(deployment: dict[str, Any]) -> dict[str, Any] | None:
    """The instance, once the deployment runs. Raises RuntimeError when it will not."""
    if deployment["state"] in ("failed", "pending"):
        raise RuntimeError(f"{deployment['name']} is {deployment['state']}: {deployment['message']}")
    instance: dict[str, Any] | None = deployment["instances"][0] if deployment["state"] == "running" else None
    return instance


def summary(measured: list[tuple[float, float]]) -> dict[str, float]:
    """Percentiles in seconds."""
    totals, loads = [total for total, _ in measured], [load for _, load in measured]
    rest = [total - load for total, load in measured]
    return {
        "total_p50": percentile(totals, 50),
        "total_p99": percentile(totals, 99),
        "engine_p50": percentile(loads, 50),
        "engine_p99": percentile(loads, 99),
        "stoker_p50": percentile(rest, 50),
        "stoker_p99": percentile(rest, 99),
        "engine_share": round(sum(loads) / sum(totals), 3),
    }


def percentile(values: list[float], percent: int) -> float:
    """The nearest-rank percentile, rounded to milliseconds."""
    if len(values) == 1:
        return round(values[0], 3)
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return round(cuts[percent - 1], 3)


if __name__ == "__main__":
    main()
