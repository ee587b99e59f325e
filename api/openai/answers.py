"""Whole answers as OpenAI and Anthropic publish them, where llama-server's lack something. Pure.

What has no need of it passes byte for byte. What is only missing is put in by its place in the bytes: what is searched
for has unescaped quotes in it, which cannot stand inside a JSON string, so that no generated text is ever mistaken.
"""

import json
from typing import Any

from api.openai.endpoints import Endpoint
from api.openai.responses import ResponseFacts, complete_response
from api.openai.validation import EngineRequest

_MESSAGE = b',"message":{"role":'
_MESSAGE_COMPLETE = b',"message":{"refusal":null,"role":'
_MESSAGE_WITHOUT_LOGPROBS = b',"logprobs":null' + _MESSAGE_COMPLETE
_LOGPROBS = b'"logprobs":{"content":['
_LOGPROBS_COMPLETE = b'"logprobs":{"refusal":null,"content":['

# Anthropic's own word where a stop sequence ended the answer; llama-server names the sequence only
STOPPED = b'"stop_reason":"end_turn","stop_sequence":"'
STOPPED_COMPLETE = b'"stop_reason":"stop_sequence","stop_sequence":"'


def whole_answer(endpoint: Endpoint, request: EngineRequest, body: bytes) -> bytes:
    """The body of an answer as it is to be sent."""
    if endpoint.path == "/chat/completions":
        if not request.logprobs:
            return body.replace(_MESSAGE, _MESSAGE_WITHOUT_LOGPROBS)
        return body.replace(_MESSAGE, _MESSAGE_COMPLETE).replace(_LOGPROBS, _LOGPROBS_COMPLETE)
    if endpoint.path == "/completions":
        return _completion(body) if request.logprobs else body
    if endpoint.path == "/messages":
        return body.replace(STOPPED, STOPPED_COMPLETE)
    if endpoint.path == "/responses":
        return _response(request, body)
    return body


def _completion(body: bytes) -> bytes:
    answer = _object(body)
    if answer is None:
        return body
    offset = 0
    for choice in answer.get("choices", []):
        offset = set_text_logprobs(choice, 0)
    return dumps(answer) if offset or answer.get("choices") else body


def set_text_logprobs(choice: dict[str, Any], offset: int) -> int:
    """Puts a choice's logprobs, which llama-server gives in the chat's shape, into that of /completions.

    `offset`: characters of the text before it. Returns those up to its end.
    """
    found = choice.get("logprobs")
    tokens = found.get("content") if isinstance(found, dict) else None
    if not isinstance(tokens, list):
        return offset + len(choice.get("text") or "")
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.get("token", ""))
    choice["logprobs"] = {
        "tokens": [token.get("token", "") for token in tokens],
        "token_logprobs": [token.get("logprob") for token in tokens],
        "top_logprobs": [
            {top.get("token", ""): top.get("logprob") for top in token.get("top_logprobs", [])} for token in tokens
        ],
        "text_offset": offsets,
    }
    return offset


def _response(request: EngineRequest, body: bytes) -> bytes:
    answer = _object(body)
    if answer is None or answer.get("object") != "response":
        return body
    return dumps(complete_response(answer, ResponseFacts.of(request)))


def _object(body: bytes) -> dict[str, Any] | None:
    try:
        answer = json.loads(body)
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None


def dumps(value: Any) -> bytes:
    """JSON, short."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
