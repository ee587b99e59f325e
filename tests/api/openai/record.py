"""Records what the real engine answers, byte for byte, into recorded/. Run after a change of the engine's version:

python -m tests.api.openai.record /path/to/SmolLM2-135M-Instruct.Q4_1.gguf
"""

import json
import socket
import sys
from pathlib import Path
from typing import Any

from tests.api.openai.real_engine import KEY, RealEngine, running_engine

FOLDER = Path(__file__).parent / "recorded"
ASK = {"messages": [{"role": "user", "content": "Say hi"}], "max_tokens": 3, "temperature": 0}
COMPLETE = {"prompt": "Say hi", "max_tokens": 3, "temperature": 0}
LONG = {"messages": [{"role": "user", "content": "word " * 2000}]}
STREAM: dict[str, Any] = {"stream": True}
USAGE: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}

CHAT: dict[str, tuple[str, dict[str, Any] | None]] = {
    "chat": ("/v1/chat/completions", ASK),
    "chat_stream": ("/v1/chat/completions", ASK | STREAM),
    "chat_stream_usage": ("/v1/chat/completions", ASK | USAGE),
    "chat_stream_usage_two_choices": ("/v1/chat/completions", ASK | USAGE | {"n": 2}),
    "completion": ("/v1/completions", COMPLETE),
    "completion_stream": ("/v1/completions", COMPLETE | STREAM),
    "completion_stream_usage": ("/v1/completions", COMPLETE | USAGE),
    "completion_stream_two_prompts": ("/v1/completions", COMPLETE | USAGE | {"prompt": ["Say hi", "Go"]}),
    "responses": ("/v1/responses", {"input": "Say hi", "max_output_tokens": 3}),
    "responses_stream": ("/v1/responses", {"input": "Say hi", "max_output_tokens": 3} | STREAM),
    "messages": ("/v1/messages", ASK),
    "messages_stream": ("/v1/messages", ASK | STREAM),
    "count_tokens": ("/v1/messages/count_tokens", ASK),
    "error_context": ("/v1/chat/completions", LONG),
    "error_field": ("/v1/chat/completions", ASK | {"max_tokens": "many"}),
    "error_json": ("/v1/chat/completions", None),
    "error_tools": ("/v1/chat/completions", ASK | {"tools": [{"type": "x"}]}),
    "error_image": (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,x"}}]}]},
    ),
    "error_unsupported": ("/v1/embeddings", {"input": "hello"}),
    "error_route": ("/v1/nowhere", {}),
}
EMBEDDING: dict[str, tuple[str, dict[str, Any] | None]] = {
    "embeddings": ("/v1/embeddings", {"input": ["hello", "world"]})
}


def ask(engine: RealEngine, path: str, body: dict[str, Any] | None, key: str = KEY) -> bytes:
    """The answer's bytes, as they come from the socket. None: a body that is no JSON."""
    content = b"{what?" if body is None else json.dumps({"model": "smollm2"} | body).encode()
    with socket.create_connection(engine.address, timeout=120) as connection:
        head = (
            f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        connection.sendall(head.encode() + content)
        answer = b""
        while not _is_whole(answer):
            answer += connection.recv(65536)
        return answer


def _is_whole(answer: bytes) -> bool:
    head, found, body = answer.partition(b"\r\n\r\n")
    if not found:
        return False
    if b"chunked" in head:
        return body.endswith(b"0\r\n\r\n")
    return len(body) >= int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])


def main(model: Path) -> None:
    """Writes every recording."""
    with running_engine(model, "-a", "smollm2", "-np", "2") as engine:
        for name, (path, body) in CHAT.items():
            (FOLDER / f"{name}.http").write_bytes(ask(engine, path, body))
        (FOLDER / "error_key.http").write_bytes(ask(engine, "/v1/completions", {}, key="another"))
    with running_engine(model, "-a", "smollm2", "--embeddings", "--pooling", "mean") as engine:
        for name, (path, body) in EMBEDDING.items():
            (FOLDER / f"{name}.http").write_bytes(ask(engine, path, body))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
