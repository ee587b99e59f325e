"""What the load asks: whole HTTP requests, in files."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.stage.door.programs import PACE_MS

MODEL, PACED_MODEL, BURST_MODEL = "bench", "bench-paced", "bench-burst"
PROMPT_BYTES = 32 * 1024
_SHORT = "Write one sentence about the sea."
_WORDS = "the sea is wide and the wind is cold "


class Case(NamedTuple):
    """One measurement."""

    name: str
    connections: int
    model: str = MODEL
    prompt: str = _SHORT
    stream: bool = False
    pause: float = 0.0  # milliseconds, at random, before each request
    rate: float = 0.0  # requests a second, evenly; 0: as soon as the one before is answered

    @property
    def paced(self) -> bool:
        """Whether the engine has a pace of its own."""
        return self.model == PACED_MODEL

    def write_request(self, folder: Path, key: str) -> Path:
        """The request, into a file."""
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [
                {"role": "system", "content": "You are a helpful assistant."},
                {"role": "user", "content": self.prompt},
            ],
            "max_tokens": 128,
            "temperature": 0.7,
        }
        if self.stream:
            body["stream"] = True
        content = json.dumps(body, separators=(",", ":")).encode()
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\naccept: application/json\r\n"
            "accept-encoding: identity\r\nuser-agent: OpenAI/Python 2.8.0\r\ncontent-type: application/json\r\n"
            f"authorization: Bearer {key}\r\ncontent-length: {len(content)}\r\n\r\n"
        )
        path = folder / f"{self.name}.http"
        path.write_bytes(head.encode() + content)
        return path


LONG = (_WORDS * (PROMPT_BYTES // len(_WORDS) + 1))[:PROMPT_BYTES]

SMALL_64 = Case("small-64", 64)
STREAMS_64 = Case("streams-64", 64, stream=True)
BURST_64 = Case("burst-64", 64, BURST_MODEL, stream=True)
PACED_64 = Case("paced-64", 64, PACED_MODEL, stream=True, pause=PACE_MS)
EVEN_64 = Case("even-64", 64, PACED_MODEL, stream=True, rate=31)
CASES = (
    Case("small-1", 1),
    Case("small-16", 16),
    SMALL_64,
    Case("long-1", 1, prompt=LONG),
    Case("long-16", 16, prompt=LONG),
    Case("long-64", 64, prompt=LONG),
    STREAMS_64,
    BURST_64,
    PACED_64,
    EVEN_64,
)
