"""The routes that are passed on to an engine: one line each."""

from dataclasses import dataclass

_DONE = (b"data: [DONE]\n\n",)
_RESPONSE_ENDS = tuple(b"event: response.%s\n" % end for end in (b"completed", b"incomplete", b"failed"))


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

    @property
    def engine_path(self) -> str:
        """The path at the engine."""
        return f"/v1{self.path}"


ENDPOINTS: dict[str, Endpoint] = {
    endpoint.path: endpoint
    for endpoint in (
        Endpoint("/chat/completions", ("messages",), _DONE, usage_on_request=True, role_in_first_delta=True),
        Endpoint("/completions", ("prompt",), _DONE, usage_on_request=True, usage_in_finish=True),
        Endpoint("/embeddings", ("input",)),
        Endpoint("/rerank", ("query", "documents")),
        Endpoint("/responses", ("input",), _RESPONSE_ENDS),
        Endpoint("/messages", ("messages",), (b"event: message_stop\n",), anthropic=True),
        Endpoint("/messages/count_tokens", ("messages",), anthropic=True),
    )
}
