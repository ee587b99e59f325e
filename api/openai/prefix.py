"""What stays the same from turn to turn of one conversation, as a number: where its prefix is cached, it is answered
sooner. Pure."""

from typing import Any
from zlib import crc32

_TAKEN = 2048  # characters of each text: enough to tell conversations apart, and cheap whatever is sent


def prefix_of(data: dict[str, Any]) -> int:
    """A hash of a request's system prompt and first user message, or of the beginning of its prompt; 0: it has none.

    The same in every process. A `prompt_cache_key` tells apart what begins alike, as it does at OpenAI.
    """
    known = 0
    for name in ("system", "instructions"):
        known = _mixed(known, data.get(name))
    for name in ("messages", "input", "prompt"):
        said = data.get(name)
        if said is not None:
            known = _mixed_turns(known, said)
            break
    if known and isinstance(key := data.get("prompt_cache_key"), str):
        known = _mixed(known, key)
    return known


def _mixed_turns(known: int, said: Any) -> int:
    if not isinstance(said, list):
        return _mixed(known, said)
    if not said:
        return known
    if not isinstance(said[0], dict):  # prompts, or one prompt's tokens
        return _mixed(known, said[0] if isinstance(said[0], str) else str(said[:_TAKEN]))
    for turn in said:
        if not isinstance(turn, dict):
            break
        known = _mixed(known, turn.get("content"))
        if turn.get("role") == "user":
            break
    return known


def _mixed(known: int, text: Any) -> int:
    if isinstance(text, str):
        # with its length: long texts that begin alike are told apart by it, mostly
        return crc32(text[:_TAKEN].encode("utf-8", "surrogatepass"), known ^ len(text)) or 1
    if isinstance(text, list):
        for part in text:
            if isinstance(part, dict) and isinstance(part.get("text"), str):
                known = _mixed(known, part["text"])
    return known
