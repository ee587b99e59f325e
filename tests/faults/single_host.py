"""The same model on one llama-server, without Stoker: what the right answers are."""

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

READY_SECONDS = 60.0


@contextmanager
def single_host(engine: Path, model: Path, log: Path, *, context_length: int, slots: int = 4) -> Iterator[httpx.Client]:
    """A server that runs inside the block. Raises TimeoutError when it does not come up."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [str(engine / "llama-server"), "--model", str(model), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--ctx-size", str(context_length), "--parallel", str(slots), "--flash-attn", "on", "--fit", "off"]
    command += ["--threads", "1", "--cache-ram", "0"]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120, trust_env=False)
    try:
        deadline = time.monotonic() + READY_SECONDS
        while not _ready(client):
            if process.poll() is not None or time.monotonic() > deadline:
                raise TimeoutError(f"the reference does not come up: {log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)
        yield client
    finally:
        client.close()
        process.kill()
        process.wait()


def _ready(client: httpx.Client) -> bool:
    try:
        return client.get("/health").status_code == 200
    except httpx.HTTPError:
        return False


def answer(client: httpx.Client, model: str, prompt: str, tokens: int, *, headers: dict[str, str]) -> list[str]:
    """The tokens of the greedy answer to a chat of one message."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "temperature": 0,
        "max_tokens": tokens,
        "logprobs": True,
    }
    told = client.post("/v1/chat/completions", json=body, headers=headers).raise_for_status().json()
    return [token["token"] for token in told["choices"][0]["logprobs"]["content"]]
