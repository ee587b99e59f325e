"""`/v1/chat/completions`."""

import json
import re
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from api.openai.errors import APIError, invalid_api_key, model_not_found
from tests.fakes.api.state import ApiState


def add_routes(app: FastAPI, fake: ApiState) -> None:
    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        key = request.headers.get("authorization", "").removeprefix("Bearer ")
        body = await request.json()
        refusal: APIError | None = None
        if key not in (fake.admin_key, fake.user_key):
            refusal = invalid_api_key(given=bool(key))
        elif not fake.answers:
            refusal = model_not_found(body["model"])
        answer = [] if refusal else fake.answers.pop(0)
        if isinstance(answer, APIError):
            refusal = answer
        if refusal is not None:
            headers = {name.decode(): value.decode() for name, value in refusal.headers}
            return JSONResponse(json.loads(refusal.body()), status_code=refusal.status, headers=headers)
        assert not isinstance(answer, APIError)
        return StreamingResponse((f"data: {event}\n\n" for event in answer), media_type="text/event-stream")


def chat_answer(text: str, *, done: bool = True, **last: Any) -> list[str]:
    """The events of a streamed answer: a chunk a word, then usage, then the end."""
    shape = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "llama"}
    words = re.findall(r"\s*\S+|\s+", text)

    def chunk(delta: dict[str, str], reason: str | None = None) -> dict[str, Any]:
        return {**shape, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}], "usage": None}

    chunks = [chunk({"role": "assistant"}), *(chunk({"content": word}) for word in words), chunk({}, "stop")]
    usage = {"prompt_tokens": 9, "completion_tokens": len(words), "total_tokens": 9 + len(words)}
    chunks.append({**shape, "choices": [], "usage": usage, **last})
    return [json.dumps(part, ensure_ascii=False) for part in chunks] + (["[DONE]"] if done else [])
