"""The routes that are passed on to an engine: one line each."""

from dataclasses import dataclass

from api.openai.field_values import HARMLESS, Harmless
from api.openai.fields import FIELDS

_DONE = (b"data: [DONE]\n\n",)
_RESPONSE_ENDS = tuple(b"event: response.%s\n" % end for end in (b"completed", b"incomplete", b"failed"))
_ECHOED = (
    "instructions",
    "max_output_tokens",
    "max_tool_calls",
    "metadata",
    "parallel_tool_calls",
    "prompt_cache_key",
    "reasoning",
    "safety_identifier",
    "service_tier",
    "temperature",
    "text",
    "tool_choice",
    "tools",
    "top_p",
    "truncation",
    "user",
)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A POST route of the engine, under /v1.

    `required` fields must be there. A stream that is whole holds one of `end_marks` in its last event: raw line
    breaks cannot stand inside JSON, so that no generated text can be taken for one.
    """

    path: str
    required: tuple[str, ...]
    end_marks: tuple[bytes, ...] = ()
    anthropic: bool = False  # errors, whole and in streams, as the Anthropic SDK reads them
    usage_in_finish: bool = False  # llama-server puts usage into the stream's finish chunk, asked or not
    usage_on_request: bool = False  # `stream_options.include_usage` is known here
    role_in_first_delta: bool = False  # the first chunk of a stream names the role
    has_prefix: bool = False  # an engine that has read the beginning before answers sooner
    writes: bool = True  # tokens, that is
    takes_form: bool = False  # multipart/form-data, with a file in it
    echoed: tuple[str, ...] = ()  # fields of the request that the answer repeats

    @property
    def fields(self) -> frozenset[str]:
        """All fields that a body may have."""
        return FIELDS[self.path]

    @property
    def harmless(self) -> Harmless:
        """Fields of which only some values are taken."""
        return HARMLESS.get(self.path, {})

    @property
    def has_named_events(self) -> bool:
        """Whether a stream's events have names, that of an error too."""
        return self.anthropic or bool(self.echoed)

    @property
    def engine_path(self) -> str:
        """The path at the engine."""
        return f"/v1{self.path}"


ENDPOINTS: dict[str, Endpoint] = {
    endpoint.path: endpoint
    for endpoint in (
        Endpoint(
            "/chat/completions",
            ("messages",),
            _DONE,
            usage_on_request=True,
            role_in_first_delta=True,
            has_prefix=True,
        ),
        Endpoint("/completions", ("prompt",), _DONE, usage_on_request=True, usage_in_finish=True, has_prefix=True),
        Endpoint("/embeddings", ("input",), writes=False),
        Endpoint("/rerank", ("query", "documents"), writes=False),
        Endpoint("/responses", ("input",), _RESPONSE_ENDS, has_prefix=True, echoed=_ECHOED),
        Endpoint("/messages", ("messages",), (b"event: message_stop\n",), anthropic=True, has_prefix=True),
        Endpoint("/messages/count_tokens", ("messages",), anthropic=True, writes=False),
        Endpoint("/audio/transcriptions", ("file",), _DONE, takes_form=True),
    )
}
