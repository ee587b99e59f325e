"""What `make demo` does: start, deploy, ask, and say where everything is."""

import asyncio
import json
import shutil
import socket
import time
from pathlib import Path
from typing import Any

import httpx
import platformdirs
from rich.console import Console

from entrypoints.data_folder import admin_key_file
from entrypoints.demo.model import fetch_demo_model
from entrypoints.folder_lock import FolderInUseError, locked
from entrypoints.up import RunningSystem, running_system
from stoker.domain.units import format_bytes
from stoker.settings import ApiSettings, Settings, TemporalSettings, WorkerSettings

NAME = "smollm2"
QUESTION = "Name three fruits."
CONTEXT_LENGTH = 2048  # tokens a slot: plenty for the question, and quick to set up on a small machine
RUNNING_WITHIN_SECONDS = 120.0

console = Console(highlight=False)


class DemoFailedError(Exception):
    """Something did not go as it should; the message says what."""


async def run_demo(*, stay: bool, stop: asyncio.Event) -> bool:
    """True when the model answered. With `stay` it goes on until `stop`. Raises DemoFailedError, CannotStartError."""
    began = time.monotonic()
    console.print("[bold]Stoker's demo[/bold]: the whole system on this machine, and a real model\n")
    model = await asyncio.to_thread(fetch_demo_model)
    _step(began, f"model    {model.name}, {format_bytes(model.stat().st_size)}, sha256 checked")
    folder = platformdirs.user_data_path("stoker") / "demo"
    async with running_system(_fresh(folder, model), stop) as system:
        if system is None:
            return False
        _step(began, "started  Temporal, API, control plane, worker agent")
        headers = {"authorization": f"Bearer {admin_key_file(system.settings).read_text().strip()}"}
        async with httpx.AsyncClient(base_url=system.settings.api_url, headers=headers, timeout=60.0) as client:
            await _show(client, model, began)
        _addresses(system, stay)
        if stay:
            await stop.wait()
            console.print("\nStopping …")
    return True


def _fresh(folder: Path, model: Path) -> Settings:
    """Settings for an empty data folder, on the usual ports where they are free. Raises DemoFailedError."""
    try:
        with locked(folder):  # what an earlier demo left goes; one that still runs must not be touched
            for entry in folder.iterdir():
                if entry.name != "lock":
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    except FolderInUseError as error:
        raise DemoFailedError(f"another demo is running: {error}") from error
    usual_api, usual_temporal = ApiSettings(), TemporalSettings()
    ports = [_free(port) for port in (usual_api.port, usual_temporal.port, usual_temporal.ui_port)]
    return Settings(
        data_dir=folder,
        log_level="info",
        api=ApiSettings(port=ports[0]),
        temporal=TemporalSettings(port=ports[1], ui_port=ports[2]),
        worker=WorkerSettings(model_dirs=(model.parent,)),
    )


def _free(port: int) -> int:
    for candidate in (port, 0):
        try:
            with socket.create_server(("127.0.0.1", candidate)) as listener:
                return int(listener.getsockname()[1])
        except OSError:
            continue
    raise DemoFailedError("no port of 127.0.0.1 is free")


async def _show(client: httpx.AsyncClient, model: Path, began: float) -> None:
    asked = time.monotonic()
    body = {"name": NAME, "model": f"file:{model}", "options": {"context_length": CONTEXT_LENGTH}}
    created = await client.post("/api/v1/deployments", json=body)
    if created.status_code != 201:
        raise DemoFailedError(f"the deployment was refused: {created.text}")
    deployment = await _running(client)
    (instance,) = deployment["instances"]
    placement, estimate = instance["placement"], instance["placement"]["estimate"]
    _step(began, f"placed   {placement['reason']}")
    parts = ", ".join(f"{what} {format_bytes(estimate[f'{what}_bytes'])}" for what in ("weights", "cache", "compute"))
    _step(began, f"claimed  {format_bytes(placement['claimed_bytes'])} ({parts}, the rest for the process)")
    _step(began, f"running  pid {instance['pid']}, {estimate['slots']} slots of {estimate['context_length']} tokens")
    console.print(f"\n  [bold]{QUESTION}[/bold]  ", end="")
    first = await _ask(client, asked)
    console.print(
        f"  {first - asked:.2f} s from POST /api/v1/deployments to the first token, "
        f"{instance['load_seconds']:.2f} s of them the engine's own load",
        soft_wrap=True,
    )


async def _running(client: httpx.AsyncClient) -> dict[str, Any]:
    """The deployment, once it runs."""
    try:
        async with (
            asyncio.timeout(RUNNING_WITHIN_SECONDS),
            client.stream("GET", f"/api/v1/deployments/{NAME}", params={"watch": True}) as events,
        ):
            async for line in events.aiter_lines():
                if not line.startswith("data: "):
                    continue
                deployment: dict[str, Any] = json.loads(line.removeprefix("data: "))
                if deployment["state"] == "running":
                    return deployment
                if deployment["state"] in ("failed", "pending"):
                    raise DemoFailedError(f"the deployment is {deployment['state']}: {deployment['message']}")
    except TimeoutError:
        pass
    raise DemoFailedError(f"the model did not run within {RUNNING_WITHIN_SECONDS:.0f} s")


async def _ask(client: httpx.AsyncClient, asked: float) -> float:
    """Streams the answer to the terminal; returns when its first token came."""
    body = {
        "model": NAME,
        "messages": [{"role": "user", "content": QUESTION}],
        "temperature": 0,
        "max_tokens": 64,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    first, tokens = 0.0, 0
    async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        if answer.status_code != 200:
            raise DemoFailedError(f"the model did not answer: {(await answer.aread()).decode()}")
        async for line in answer.aiter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            event = json.loads(line.removeprefix("data: "))
            for choice in event.get("choices", []):
                if text := choice["delta"].get("content"):
                    first = first or time.monotonic()
                    console.print(text, end="", markup=False)
            tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
    if not first or not tokens:
        raise DemoFailedError("the model answered with nothing")
    rate = (tokens - 1) / max(time.monotonic() - first, 1e-9)
    console.print(f"\n\n  {tokens} tokens, {rate:.0f} tokens/s")
    return first


def _addresses(system: RunningSystem, stay: bool) -> None:
    url, key = system.settings.api_url, admin_key_file(system.settings)
    console.print(f"""
  Web page         {url}  (sign in with the admin key)
  OpenAI endpoint  {url}/v1
  API and docs     {url}/docs
  Temporal UI      {system.temporal_ui}
  Admin key        {key}
""")
    if stay:
        where = f"STOKER_DATA_DIR={system.settings.data_dir} STOKER_API__PORT={system.settings.api.port}"
        console.print(f"It stays up until Ctrl-C. Try: {where} .venv/bin/stoker ps", soft_wrap=True)


def _step(began: float, text: str) -> None:
    console.print(f"  [dim]{time.monotonic() - began:5.1f} s[/dim]  {text}", soft_wrap=True)
