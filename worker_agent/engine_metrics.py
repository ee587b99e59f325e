"""What a main server's /metrics says of its work."""

from collections.abc import Callable

import httpx

from activities.ports import ProcessKey
from stoker.domain.base import Value

_NAMES = {
    "llamacpp:requests_processing": "processing",
    "llamacpp:requests_deferred": "deferred",
    "llamacpp:n_decode_total": "decodes",
}


class EngineWork(Value):
    """Requests in work and queued, and how often the engine has computed a batch. None: it does not say."""

    processing: int
    deferred: int
    decodes: int | None = None


def read_work(metrics: str) -> EngineWork:
    """What llama-server's /metrics says. Raises ValueError when it says nothing of requests."""
    counts = {
        _NAMES[name]: int(float(value))
        for name, _, value in (line.partition(" ") for line in metrics.splitlines())
        if name in _NAMES
    }
    if not {"processing", "deferred"} <= counts.keys():
        raise ValueError("no llamacpp:requests_processing and llamacpp:requests_deferred: was --metrics given?")
    return EngineWork(**counts)


class EngineMetrics:
    """Asks the main servers of this host."""

    def __init__(self, client: httpx.AsyncClient, engine_key: Callable[[ProcessKey], str]) -> None:
        """`client`: its base address is the engines' host. `engine_key`: what each process asks for."""
        self._client, self._engine_key = client, engine_key

    async def read(self, key: ProcessKey, port: int) -> EngineWork:
        """What it says now. Raises httpx.HTTPError, and ValueError when it says nothing of requests."""
        answer = await self._client.get(
            self._client.base_url.copy_with(port=port, path="/metrics"),
            headers={"Authorization": f"Bearer {self._engine_key(key)}"},
        )
        return read_work(answer.raise_for_status().text)
