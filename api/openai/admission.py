"""Whether a key may have another request now: what the proxy asks before it works, and tells afterwards."""

from collections.abc import Sequence
from typing import Protocol

from api.openai.auth import Principal
from api.openai.errors import Header
from api.openai.validation import EngineRequest

DEFAULT_OUTPUT_TOKENS = 256
"""Reserved for an answer whose length the client does not bound."""

BYTES_PER_TOKEN = 4  # of English text and JSON, about; what the engine counted is settled afterwards


class Admission(Protocol):
    """One request that was let in."""

    @property
    def headers(self) -> Sequence[Header]:
        """`x-ratelimit-*` for the answer; empty where the key has no limits."""
        ...

    def settle(self, tokens: int | None) -> None:
        """The request is over and has used so many tokens. None: none, and what was reserved for it is given back.

        Always, and once: a second call changes nothing.
        """
        ...


class Gate(Protocol):
    """Lets requests in as far as their keys' limits allow."""

    def admit(self, principal: Principal, tokens: int) -> Admission:
        """Lets a request in that may take `tokens`. Raises APIError (429)."""
        ...


class _Open:
    """Nothing is counted, nothing is refused."""

    __slots__ = ()

    headers: Sequence[Header] = ()

    def admit(self, principal: Principal, tokens: int) -> Admission:
        return self

    def settle(self, tokens: int | None) -> None:
        pass


OPEN_ADMISSION: Admission = _Open()
"""Of a key without limits."""

OPEN_GATE: Gate = _Open()
"""For where there are no limits."""


def reserve_for(request: EngineRequest) -> int:
    """Tokens to reserve for a request until it is known what it used: its prompt, about, and all it may write."""
    output = request.max_output if request.max_output is not None else DEFAULT_OUTPUT_TOKENS
    return request.prompt_size // BYTES_PER_TOKEN + output * request.answers
