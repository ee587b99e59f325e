"""Answers in one piece out of a stream: several choices, or answers to several prompts. Pure.

Of several in one piece, llama-server counts the tokens of the first alone; in a stream it counts them all. So it is
asked for a stream, and the client gets what it asked for: one piece, with all that was used.
"""

import json
from typing import Any

from api.openai.answers import dumps

MAX_BYTES = 64 * 1024 * 1024  # of the stream


class Assembly:
    """One answer. Call it with whole events, as they come; it gives the answer with the last, and nothing before."""

    def __init__(self, choices: int) -> None:
        """`choices`: answers to each prompt. Every one of them repeats its prompt's tokens, which count once."""
        self._choices = choices
        self._size = 0
        self._last: dict[str, Any] = {}
        self._answers: dict[int, dict[str, Any]] = {}
        self._usages: list[dict[str, Any]] = []

    def __call__(self, events: bytes) -> bytes:
        """The whole answer once `data: [DONE]` is among the events. Raises ValueError for what is no such stream."""
        self._size += len(events)
        if self._size > MAX_BYTES:
            raise ValueError(f"the answers are longer than {MAX_BYTES} bytes")
        done = False
        for event in events.split(b"\n\n"):
            data = event.partition(b"data: ")[2]
            if data == b"[DONE]":
                done = True
            elif data and data != b"null":
                self._take(json.loads(data))
        return self._whole() if done else b""

    def _take(self, chunk: Any) -> None:
        try:
            if isinstance(usage := chunk.get("usage"), dict):
                self._usages.append(usage)
            for choice in chunk.get("choices", []):
                self._take_choice(choice)
            self._last = chunk
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"a chunk of the stream lacks something: {error!r}") from error

    def _take_choice(self, choice: dict[str, Any]) -> None:
        answer = self._answers.setdefault(choice["index"], {"index": choice["index"], "logprobs": None})
        if choice.get("logprobs"):
            tokens = (answer["logprobs"] or {"content": []})["content"] + choice["logprobs"]["content"]
            answer["logprobs"] = {"content": tokens}
        if "delta" in choice:
            _add(answer.setdefault("message", {"role": "assistant", "content": None}), choice["delta"])
        else:
            answer["text"] = answer.get("text", "") + choice["text"]
        if choice.get("finish_reason"):
            answer["finish_reason"] = choice["finish_reason"]

    def _whole(self) -> bytes:
        kept = {name: self._last.get(name) for name in ("id", "created", "model", "system_fingerprint")}
        chat = any("message" in answer for answer in self._answers.values())
        return dumps(
            {
                "choices": [_ordered(self._answers[index]) for index in sorted(self._answers)],
                "object": "chat.completion" if chat else "text_completion",
                **kept,
                "usage": summed_usage(self._usages, self._choices),
            }
        )


def _ordered(answer: dict[str, Any]) -> dict[str, Any]:
    """As llama-server writes a choice, which `whole_answer` completes."""
    if "message" not in answer:
        return answer
    message = answer.pop("message")
    logprobs = answer.pop("logprobs")
    return {**answer, "message": message, **({"logprobs": logprobs} if logprobs else {})}


def _add(message: dict[str, Any], delta: dict[str, Any]) -> None:
    for name in ("content", "reasoning_content"):
        if delta.get(name):
            message[name] = (message.get(name) or "") + delta[name]
    for part in delta.get("tool_calls") or []:
        calls = message.setdefault("tool_calls", [])
        while len(calls) <= part["index"]:
            calls.append({"type": "function", "function": {"name": "", "arguments": ""}, "id": ""})
        call = calls[part["index"]]
        call["id"] += part.get("id", "")
        for name in ("name", "arguments"):
            call["function"][name] += part.get("function", {}).get(name, "")


def summed_usage(usages: list[dict[str, Any]], choices: int) -> dict[str, Any]:
    """What several answers used together, from what each of them did."""
    if len(usages) == 1:
        return usages[0]
    prompt, completion = (
        sum(count for each in usages if isinstance(count := each.get(name), int))
        for name in ("prompt_tokens", "completion_tokens")
    )
    prompt //= choices
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
