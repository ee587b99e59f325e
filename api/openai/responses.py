"""Response objects (/v1/responses) as OpenAI publishes them: llama-server gives little but the answer. Pure."""

from dataclasses import dataclass
from typing import Any

from api.openai.validation import EngineRequest

# what a response repeats of its request, where the request leaves it out
_DEFAULTS: dict[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "reasoning": {"effort": None, "summary": None},
    "service_tier": "default",
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": 1.0,
    "truncation": "disabled",
}


@dataclass(frozen=True, slots=True)
class ResponseFacts:
    """What is known of a response from its request."""

    model: str
    max_output: int | None
    echoed: dict[str, Any]

    @classmethod
    def of(cls, request: EngineRequest) -> "ResponseFacts":
        """Those of a request."""
        asked = {name: value for name, value in (request.echoed or {}).items() if value is not None}
        echoed = _DEFAULTS | asked
        for name in ("reasoning", "text"):
            if isinstance(asked.get(name), dict):
                echoed[name] = _DEFAULTS[name] | asked[name]
        if isinstance(echoed["tools"], list):
            echoed["tools"] = [_tool(tool) for tool in echoed["tools"]]
        return cls(request.model, request.max_output, echoed)


def _tool(tool: Any) -> Any:
    if isinstance(tool, dict) and tool.get("type") == "function":
        return {"parameters": None, "strict": True} | tool
    return tool


def complete_response(found: dict[str, Any], facts: ResponseFacts) -> dict[str, Any]:
    """A response object with all its fields. `found` is llama-server's: begun, or whole."""
    response: dict[str, Any] = {
        "id": found.get("id"),
        "object": "response",
        "created_at": found.get("created_at"),
        "status": found.get("status"),
        "background": False,
        "error": None,
        "incomplete_details": None,
        "model": found.get("model", facts.model),
        "output": found.get("output", []),
        "previous_response_id": None,
        "store": False,
        **facts.echoed,
        "usage": None,
    }
    usage = found.get("usage")
    if isinstance(usage, dict):
        cached = usage.get("input_tokens_details") or {}
        response["usage"] = {
            "input_tokens": usage.get("input_tokens", 0),
            "input_tokens_details": {"cached_tokens": cached.get("cached_tokens", 0), "cache_write_tokens": 0},
            "output_tokens": usage.get("output_tokens", 0),
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage.get("total_tokens", 0),
        }
        if facts.max_output is not None and usage.get("output_tokens", 0) >= facts.max_output:
            # llama-server says "completed" in any case
            response["status"] = "incomplete"
            response["incomplete_details"] = {"reason": "max_output_tokens"}
    if response["status"] == "completed":
        response["completed_at"] = found.get("completed_at", response["created_at"])
    return response
