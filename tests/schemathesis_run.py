"""Lets schemathesis make up requests against both OpenAPI documents of a real system, for minutes.

    python -m tests.schemathesis_run [--minutes 10] [--seed N] [--folder FOLDER]

On this machine runs a throw-away system: PostgreSQL, Temporal, the API in two processes, the control plane, an agent,
and llama-server with a small model of random weights, which a stand-in of the hub has too. Half of the time goes to
/v1, half to the management API with its admin key: whatever it makes, changes and deletes there, nobody needs. Each
request has a deadline. Then every listing that can be watched is watched for a moment, and the API must still be
there: the same processes, with no crash in their log.

The last line is JSON; the exit code is 1 where anything was found.
"""

import argparse
import asyncio
import collections
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from tests.builders import write_tiny_llama
from tests.fakes.hub import FakeHub
from tests.faults.kept_system import ROOT
from tests.live.long_run import add_folder_option, engine_folder, run_folder
from tests.live.system import LiveSystem

MODEL = "tiny"
ON_THE_HUB = (
    "bartowski/SmolLM2-135M-Instruct-GGUF/SmolLM2-135M-Instruct-Q4_K_M.gguf"  # what the document's examples name
)
OFFER = "1GiB"  # what is deployed there is small, and there is little of it
REQUEST_SECONDS = 30.0
WATCHED_WITHIN_SECONDS = 10.0
GRACE_SECONDS = 240.0  # that schemathesis may take beyond its time, to find the smallest request that fails

# of each document: what schemathesis is not to check, as it cannot know it
LEFT_OUT = {
    # Engines take what they do not read; and what they cannot do for this model is a 400 or 404 to a valid body.
    "/v1/openapi.json": "negative_data_rejection,positive_data_acceptance",
    # What is valid may be about what is not there, or has no room.
    "/openapi.json": "positive_data_acceptance",
}


def schemathesis(system: LiveSystem, document: str, seconds: float, seed: int) -> dict[str, Any]:
    """One document: what schemathesis reports, in short."""
    name = document.strip("/").replace("/", "-")
    report = system.folder / f"schemathesis-{name}"
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{system.url}{document}"]
    command += ["--header", f"Authorization: Bearer {system.admin_key}", "--exclude-checks", LEFT_OUT[document]]
    command += ["--request-timeout", f"{REQUEST_SECONDS:g}", "--max-response-time", f"{REQUEST_SECONDS:g}"]
    command += ["--max-time", f"{seconds:.0f}", "--seed", str(seed), "--generation-database", "none", "--no-color"]
    command += ["--suppress-health-check", "all", "--report", "json", "--report-json-path", str(report)]
    environment = os.environ | {
        "SCHEMATHESIS_HOOKS": "tests.live.schemathesis_hooks",
        "PYTHONPATH": str(ROOT),
        "RUN_MODEL": MODEL,
        "RUN_KEY_ID": key_id_of(system.admin_key),
    }
    with (system.folder / f"schemathesis-{name}.log").open("w") as out:
        began = time.monotonic()
        done = subprocess.run(
            command,
            env=environment,
            cwd=system.folder,
            stdout=out,
            stderr=subprocess.STDOUT,
            timeout=seconds + GRACE_SECONDS,
            check=False,
        )
    found: dict[str, Any] = json.loads(report.read_text())
    return summary(found) | {"seconds": round(time.monotonic() - began, 1), "exit_code": done.returncode}


def key_id_of(key: str) -> str:
    """The id that stands in a key."""
    return key.removeprefix("sk-stoker-").partition("-")[0]


def summary(report: dict[str, Any]) -> dict[str, Any]:
    """What matters of schemathesis' report."""
    return {
        "operations": report["operations"]["tested"],
        "of_operations": report["operations"]["total"],
        "requests": report["test_cases"]["generated"],
        "phases": {name: phase["status"] for name, phase in report["phases"].items()},
        "failures": [
            {"title": one["title"], "count": one["count"], "operations": one["operations"]}
            for one in report["failures"]
        ],
        "errors": [str(one)[:600] for one in report.get("errors", [])],
    }


async def watched(system: LiveSystem) -> dict[str, str]:
    """Each listing that can be watched: what its stream began with, or why it did not."""
    found = {}
    headers = {"authorization": f"Bearer {system.admin_key}"}
    async with httpx.AsyncClient(base_url=system.url, headers=headers, trust_env=False, timeout=30) as client:
        paths = (await client.get("/openapi.json")).raise_for_status().json()["paths"]
        for path, item in paths.items():
            parameters = item.get("get", {}).get("parameters", [])
            if "{" in path or not any(one["name"] == "watch" for one in parameters):
                continue
            try:
                async with (
                    asyncio.timeout(WATCHED_WITHIN_SECONDS),
                    client.stream("GET", path, params={"watch": "true"}) as answer,
                ):
                    found[path] = f"{answer.status_code} {answer.headers.get('content-type')}"
            except (TimeoutError, httpx.HTTPError) as error:
                found[path] = repr(error)
    return found


def crashes(log: str) -> dict[str, int]:
    """The events of a server's log that speak of a fault of its own, and how often."""
    events: collections.Counter[str] = collections.Counter()
    for line in log.splitlines():
        if '"level": "error"' in line or '"exception"' in line or '"process_died"' in line:
            try:
                told = json.loads(line)
            except ValueError:
                events[line[:200]] += 1
                continue
            last = str(told.get("exception") or told.get("error") or "").strip().splitlines()[-1:]
            events[" ".join([str(told.get("event")), *last])[:300]] += 1
        elif line.startswith("Traceback"):
            events[line] += 1
    return dict(events)


def run(system: LiveSystem, minutes: float, seed: int) -> dict[str, Any]:
    """Both documents; what was found."""
    processes = system.api_pids()
    found: dict[str, Any] = {"run": "schemathesis", "minutes": minutes, "seed": seed}
    for document in LEFT_OUT:
        print(f"{time.strftime('%H:%M:%S')} {document}", file=sys.stderr, flush=True)
        found[document] = schemathesis(system, document, minutes * 60 / 2, seed)
    found["watched"] = asyncio.run(watched(system))
    found["crashes"] = crashes(system.log("server"))
    found["api_processes_stayed"] = system.api_pids() == processes
    found["ok"] = (
        not any(found[document]["failures"] or found[document]["errors"] for document in LEFT_OUT)
        and all(told == "200 text/event-stream; charset=utf-8" for told in found["watched"].values())
        and bool(found["watched"])
        and found["api_processes_stayed"]
        and not any("crashed" in event or "Traceback" in event for event in found["crashes"])
    )
    return found


def main() -> int:
    """Runs, and prints one JSON line at the end."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    add_folder_option(parser)
    args = parser.parse_args()
    engine = engine_folder() / "llama-server"
    with run_folder("schemathesis", args.folder) as folder:
        models = folder / "models"
        models.mkdir()
        model = write_tiny_llama(models / "tiny.gguf", context=8192)
        stored = folder / "hub" / ON_THE_HUB
        stored.parent.mkdir(parents=True)
        shutil.copy(model, stored)
        with (
            FakeHub(folder / "hub") as hub,
            LiveSystem(
                folder / "system", processes=2, model_dirs=[models], llama_server=engine, offer=OFFER, hub=hub.url
            ) as system,
        ):
            system.deploy(MODEL, model, slots=4)
            found = run(system, args.minutes, args.seed)
    print(json.dumps(found))
    return 0 if found["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
